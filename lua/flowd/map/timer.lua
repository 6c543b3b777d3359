-- SPDX-License-Identifier: Apache-2.0
--- Looks once a second whether files of maps changed; a large one is read a little at a time.
local log = require("flowd.log")
local loop = require("flowd.loop")
local map = require("flowd.map")

local timer = {}

local SLICE_NS, BREATH_SECONDS = 4000000, 0.002

--- Start it. It ends with the handle, or with the process.
---@param on_texts fun(texts: table<string, string>) gets the text of each file that was taken, by path
---@return { close: fun(self: table) } handle of the loop
function timer.start(on_texts)
  local busy, say = false, log.limited(5, 60)
  local function turn()
    local ok, done, texts = xpcall(map.refresh, debug.traceback, SLICE_NS)
    busy = ok and not done
    if not ok then say("error", "files of maps: internal error: %s", done) end
    if busy then loop.after(BREATH_SECONDS, turn) end
    if ok and texts and next(texts) then on_texts(texts) end
  end
  return loop.every(1, function()
    if not busy then turn() end
  end)
end

return timer
