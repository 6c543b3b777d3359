-- SPDX-License-Identifier: Apache-2.0
-- Sites that look at marks.
return flowd.prefixes { "2001:db8:100::/40", "198.51.100.0/24" }
