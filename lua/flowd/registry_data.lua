-- SPDX-License-Identifier: Apache-2.0
--- The registry as it was published on 2025-09-04: names of experiments and their activities.
-- A newer one is configured with registry = { file = "api.json" }.
return {
  modified = "2025-09-04T12:01:55.844133+00:00",
  experiments = {
    { id = 1, name = "default", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 2, name = "atlas", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Data Brokering", [4] = "Data Consolidation",
      [8] = "Data Rebalancing", [9] = "Debug", [10] = "Express", [11] = "Functional Test",
      [12] = "Functional Test XrootD", [13] = "Functional Test WebDAV", [14] = "Group Subscriptions",
      [15] = "Production Input", [16] = "Production Output", [17] = "Analysis Input",
      [18] = "Analysis Output", [19] = "Staging", [20] = "T0 Export", [21] = "T0 Tape",
      [22] = "Upload/Download (Job)", [23] = "Upload/Download (User)", [24] = "User Subscriptions",
      [25] = "Globus Online Test", [26] = "Data Challenge",
    } },
    { id = 3, name = "cms", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge", [5] = "Data Brokering",
      [6] = "Data Consolidation", [7] = "Data rebalancing", [8] = "Debug", [9] = "Express",
      [10] = "Functional Test", [11] = "Group Subscriptions", [12] = "Production Input",
      [13] = "Production Output", [14] = "Analysis Input", [15] = "Analysis Output", [16] = "Staging",
      [17] = "T0 Export", [18] = "T0 Tape", [19] = "Upload/Download (Job)", [20] = "Upload/Download (User)",
      [21] = "User Subscriptions", [22] = "User AutoApprove", [23] = "Secondary Input",
      [24] = "Simulation Pileup Input",
    } },
    { id = 4, name = "lhcb", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 5, name = "alice", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge", [8] = "Data Consolidation",
      [9] = "Job preparation", [10] = "Data access", [11] = "Calibration data access", [12] = "Job output",
      [13] = "Data replication", [14] = "CLI download", [15] = "CLI upload", [16] = "Functional tests",
    } },
    { id = 6, name = "belleii", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge", [8] = "Data Consolidation",
      [9] = "Data Rebalancing", [10] = "Functional Test", [11] = "Functional Test WebDAV",
      [12] = "Recovery", [13] = "Production Input", [14] = "Production Output", [15] = "Production Merge",
      [16] = "Analysis Input", [17] = "Analysis Output", [18] = "Staging", [19] = "Raw Export",
      [20] = "Upload/Download (Job)", [21] = "Upload/Download (User)", [22] = "User Merge",
      [23] = "User Transfers", [24] = "User Subscription", [25] = "T0 Tape", [26] = "T0 Export",
    } },
    { id = 7, name = "ska", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 8, name = "dune", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 9, name = "lsst", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 10, name = "ilc", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 11, name = "auger", activities = {
      [1] = "default", [2] = "perfSONAR", [3] = "Cache", [4] = "Data Challenge",
    } },
    { id = 12, name = "juno", activities = {
      [1] = "default",
    } },
    { id = 13, name = "nova", activities = {
      [1] = "default",
    } },
    { id = 14, name = "xenon", activities = {
      [1] = "default",
    } },
  },
}
