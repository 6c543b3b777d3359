-- SPDX-License-Identifier: Apache-2.0
--- Events from named pipes: data servers write one line for each start and end of a flow.
local fifo = require("flowd.fifo")
local schema = require("flowd.schema")

local pipe = {
  name = "pipe",
  doc = "Reads flow lines from named pipes: \"start|end tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT EXPERIMENT ACTIVITY\". "
    .. "Experiment and activity are ids (0: a rule decides) or names of the registry, with _ for a blank. A line that "
    .. "is refused is counted and logged with the reason. When the daemon is busy its writers wait; nothing is lost.",
  schema = {
    paths = schema.list({
      of = schema.path({ doc = "Path of a named pipe." }), min = 1, default = { "/run/flowd-lua/np" },
      check = function(paths)
        local seen = {}
        for _, path in ipairs(paths) do
          if seen[path] then return ('"%s" is listed twice'):format(path) end
          seen[path] = true
        end
      end,
      doc = "Where the pipes are. A pipe that is not there is made, and removed when the daemon stops; one that is there "
        .. "is used and stays, if root or the daemon's user owns it. Other software writes to fixed paths: "
        .. "/var/run/flowd (flowd, StoRM), /var/run/flowd-go/np (flowd-go).",
    }),
    mode = schema.mode({ default = "0660", doc = "Mode of a pipe that is made: who may write." }),
    owner = schema.string({
      default = "", doc = 'Owner of a pipe that is made, a name or a number; "": the daemon\'s user.',
    }),
    group = schema.string({
      default = "", doc = 'Group of a pipe that is made, a name or a number; "": the daemon\'s group.',
    }),
    replace_regular_file = schema.boolean({
      default = false,
      doc = "A regular file at a pipe's path, as programs leave there that write while no daemon runs, is renamed "
        .. "(a name with the time is appended). Otherwise it is an error.",
    }),
  },
}

local function of_path(options, path)
  return {
    path = path, mode = options.mode, owner = options.owner, group = options.group,
    replace_regular_file = options.replace_regular_file,
  }
end

--- As root, for a daemon that becomes `user`: pipes where only root can make them, for whom only root can.
function pipe.prepare(_, options, user)
  for _, path in ipairs(options.paths) do fifo.prepare(of_path(options, path), user) end
end

--- Could an ordinary user, who we are, have these pipes? nil: yes.
function pipe.denied(_, options)
  for _, path in ipairs(options.paths) do
    local problem = fifo.denied(of_path(options, path))
    if problem then return problem end
  end
end

function pipe:start(ctx)
  local options, problems = self.options, {}
  for _, path in ipairs(options.paths) do
    local ok, message = pcall(ctx.fifo, ctx, of_path(options, path))
    if ok then
      ctx:log("info", "reading %s", path)
    else
      problems[#problems + 1] = message
    end
  end
  if #problems > 0 then error(table.concat(problems, "; "), 0) end
end

return pipe
