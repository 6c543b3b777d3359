-- SPDX-License-Identifier: Apache-2.0
--- What maps that are Lua's own hold, by map: out of reach of rules.
return setmetatable({}, { __mode = "k" })
