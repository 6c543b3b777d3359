local ffi=require("ffi") local api=require("flowd.api")
local t=ffi.new("struct program_trial") local log=ffi.new("char[65536]")
local n=0
while api.programs_try(n,t,log,65536)==0 do
 print(ffi.string(t.object),ffi.string(t.program),t.error,t.instructions,t.verified,t.machine_code) if t.error ~= 0 then print(ffi.string(log)) end n=n+1 end
print(n)
