-- SPDX-License-Identifier: Apache-2.0
local cli = {}

function cli.main(argv)
  local i = 1
  while argv[i] and argv[i]:sub(1, 2) == "--" do i = i + (argv[i]:find("=") and 1 or 2) end
  if argv[i] == "lua" then
    arg = { [0] = argv[i + 1] }
    for k = i + 2, #argv do arg[k - i - 1] = argv[k] end
    local chunk = assert(loadfile(argv[i + 1]))
    return chunk(unpack(arg)) or 0
  end
  io.stderr:write("flowd-lua: no command\n")
  return 2
end

return cli
