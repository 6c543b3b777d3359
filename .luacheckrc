-- luacheck: LuaJIT, no globals but what the binary provides.
std = "luajit"
self = false
max_line_length = 140
read_globals = { "_flowd" }
exclude_files = { "build*", "bin", "conf/annotations" }
files["spec"] = {
  std = "luajit+busted",
  globals = { "arg" },
}
files["lua/flowd/cli.lua"] = { globals = { "arg" } }
files["lua/flowd/commands"] = { globals = { "arg" } }
-- Configuration and rule files see the policy's own names.
files["conf"] = { read_globals = { "rule", "drop", "accept", "flowd" } }
files["scripts/bench/rules/site.lua"] = files["conf"]
