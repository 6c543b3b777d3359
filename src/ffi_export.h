/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ffi_export.h - marks the functions that Lua reaches through LuaJIT's FFI.
 *
 * scripts/build/ffi.lua collects every prototype that starts with FFI_EXPORT,
 * with every struct and enum of those headers, and writes from them
 *   - struct flowd_api, one function pointer each (C), with its initialiser,
 *   - the text for ffi.cdef, and
 *   - _Static_asserts that LuaJIT and the C compiler lay the structs out alike.
 * A struct of pointers is as fast as ffi.C and, unlike it, works in a static
 * binary. An exported function never calls into Lua.
 */
#ifndef FFI_EXPORT_H
#define FFI_EXPORT_H

#define FFI_EXPORT

#endif
