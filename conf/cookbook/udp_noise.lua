-- SPDX-License-Identifier: Apache-2.0
-- Measurements are no transfers: traceroute, discard and echo leave no trace. A rule that drops comes first.
rule "measurements" { match = { dst_port = { 7, 9, "33434-33534" } }, drop = true }
