-- SPDX-License-Identifier: Apache-2.0
--- Many flows at once: their lines for the pipe, told apart by their ports.
local flow_lines = {}

local FIRST_PORT, PORTS = 1024, 60000

--- The ports of flow i (0, 1, ...): different for every i.
---@param i integer
---@return integer src_port, integer dst_port
function flow_lines.ports(i)
  return FIRST_PORT + i % PORTS, FIRST_PORT + math.floor(i / PORTS)
end

--- Lines of flows `from` to `to`.
---@param state "start"|"end"
---@param src string address
---@param dst string address
---@param tag string for example "atlas 1"
---@param protocol "tcp"|"udp"|nil default "tcp"
---@return string
function flow_lines.lines(state, src, dst, tag, from, to, protocol)
  local lines = {}
  for i = from, to do
    lines[#lines + 1] = ("%s %s %s %d %s %d %s\n"):format(state, protocol or "tcp", src, FIRST_PORT + i % PORTS, dst,
      FIRST_PORT + math.floor(i / PORTS), tag)
  end
  return table.concat(lines)
end

return flow_lines
