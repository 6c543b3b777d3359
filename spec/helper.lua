-- SPDX-License-Identifier: Apache-2.0
-- Loaded once before the specs: assertions and paths they all use.
return true
