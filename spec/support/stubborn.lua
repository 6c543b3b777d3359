-- SPDX-License-Identifier: Apache-2.0
--- A program that sends datagrams for as long as it runs, whatever becomes of interface, address and route:
--- BINARY lua spec/support/stubborn.lua SOURCE_PORT DESTINATION PORT
package.path = "./?.lua;" .. package.path
local process = require("spec.support.process")
local udp = require("spec.support.udp")

local INTERVAL = 0.0005

local socket = udp.open(nil, "::", tonumber(arg[1]))
while true do
  pcall(socket.send, socket, "x", arg[2], tonumber(arg[3]))
  process.ready(socket.fd, INTERVAL)
end
