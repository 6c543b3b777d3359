-- SPDX-License-Identifier: Apache-2.0
jit.off(true, true)

return {}
