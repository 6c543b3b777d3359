-- SPDX-License-Identifier: Apache-2.0
-- IPv4 has no flow label, and nothing is written into its DSCP field, which belongs to the network's own service classes: such flows
-- are reported by firefly only.
rule "IPv4: report only" { match = { family = 4 }, route = "firefly" }
