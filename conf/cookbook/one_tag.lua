-- SPDX-License-Identifier: Apache-2.0
-- A machine that does one thing: all that it sends is this, whatever was announced. flowd-go's perfsonar plugin, for announced
-- flows.
rule "perfSONAR" { set = { experiment = "default", activity = "perfSONAR" }, accept = true }
