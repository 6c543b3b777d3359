-- SPDX-License-Identifier: Apache-2.0
--- busted output handler: dots while it runs, failures in full, one closing line.
return function()
  local busted = require("busted")
  local handler = require("busted.outputHandlers.base")()
  local quiet = os.getenv("SPEC_QUIET")

  local function progress(_, _, status)
    io.write(({ success = ".", pending = "s" })[status] or "F")
    io.flush()
    return nil, true
  end

  local function describe(record, kind)
    io.write(("\n%s: %s\n  at %s:%s\n  %s\n"):format(kind, record.name or "?",
      record.trace and record.trace.short_src or "?", record.trace and record.trace.currentline or "?",
      tostring(type(record.message) == "table" and require("pl.pretty").write(record.message) or record.message)
        :gsub("\n", "\n  ")))
    if record.trace and record.trace.traceback and kind == "error" then io.write(record.trace.traceback, "\n") end
  end

  local function suite_end()
    io.write("\n")
    for _, failure in ipairs(handler.failures) do describe(failure, "failed") end
    for _, err in ipairs(handler.errors) do describe(err, "error") end
    for _, pending in ipairs(handler.pendings) do
      io.write(("skipped: %s%s\n"):format(pending.name,
        type(pending.message) == "string" and " (" .. pending.message .. ")" or ""))
    end
    local failed = handler.failuresCount + handler.errorsCount
    if handler.successesCount + failed + handler.pendingsCount == 0 then
      io.write("no test ran\n")
      failed = 1
    end
    io.write(("%d passed, %d failed%s\n"):format(handler.successesCount, failed,
      handler.pendingsCount > 0 and (", %d skipped"):format(handler.pendingsCount) or ""))
    io.flush()
    if failed > 0 then os.exit(1) end
    return nil, true
  end

  if not quiet then busted.subscribe({ "test", "end" }, progress, { predicate = handler.cancelOnPending }) end
  busted.subscribe({ "suite", "end" }, suite_end)
  return handler
end
