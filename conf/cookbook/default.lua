-- SPDX-License-Identifier: Apache-2.0
-- What is still unknown gets a default: XRootD's `map2exp default atlas` and `map2act atlas default "Production Input"`.
-- Put it last in the list of rules. An activity that is unset after all rules becomes 1, which the registry calls default.
rule "default experiment" { match = { experiment = "unset" }, set = { experiment = "atlas" } }
rule "default activity" { match = { experiment = "atlas", activity = "unset" }, set = { activity = "Production Input" } }
