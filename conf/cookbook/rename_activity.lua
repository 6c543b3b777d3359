-- SPDX-License-Identifier: Apache-2.0
-- Software that announces an activity by an old number, or by the wrong one, is put right.
rule "old number" { match = { experiment = "atlas", activity = 50 }, set = { activity = "Data Challenge" } }
rule "the analysis pool only reads" {
  match = { src = "2001:db8:10:300::/56", experiment = "cms", activity = { "Production Input", "unset" } },
  set = { activity = "Analysis Input" },
}
