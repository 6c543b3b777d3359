-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local flows = require("spec.support.flows")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local tcp = require("spec.support.tcp")
local temp = require("spec.support.temp")

local C = ffi.C
local THERE, GONE = tonumber(C.SOCK_DIAG_THERE), tonumber(C.SOCK_DIAG_GONE)

local function set_address(to, text) assert.is_true(api.address_parse(text, #text, to) >= 0) end

local function set_key(key, family, src, src_port, dst, dst_port)
  set_address(key.src, src)
  set_address(key.dst, dst)
  key.src_port, key.dst_port, key.protocol, key.family = src_port, dst_port, 6, family
end

local function open_diag()
  local message = ffi.new("char[256]")
  local diag = api.sock_diag_open(message, 256)
  assert.is_true(diag ~= nil, ffi.string(message))
  cleanup.add(function() api.sock_diag_close(diag) end)
  return diag
end

describe("questions about TCP sockets", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)

  for family, host in pairs({ [4] = "127.0.0.1", [6] = "::1" }) do
    it("find a connection of IPv" .. family .. " with its cookie, until it is closed", function()
      local ns = netns.new()
      local diag = ns:enter(open_diag)
      local listener, client, server = tcp.connection(ns, host, 5777)
      local q = ffi.new("struct sock_diag_question[4]")
      set_key(q[0].key, family, host, client.port, host, 5777)
      set_key(q[1].key, family, host, 5777, host, client.port)
      set_key(q[2].key, family, host, 5777, host, client.port == 9 and 10 or 9) -- only the listener has that port
      set_key(q[3].key, family, host, 4242, host, 4243)
      api.sock_diag_ask(diag, q, 4)
      assert.same({ THERE, THERE, GONE, GONE }, { q[0].answer, q[1].answer, q[2].answer, q[3].answer })
      assert.equal(tcp.cookie(client), q[0].cookie)
      assert.equal(tcp.cookie(server), q[1].cookie)
      -- By cookie: this one, and no other of the same addresses and ports.
      api.sock_diag_ask(diag, q, 2)
      assert.same({ THERE, THERE }, { q[0].answer, q[1].answer })
      q[0].cookie = q[0].cookie + 1
      api.sock_diag_ask(diag, q, 2)
      assert.same({ GONE, THERE }, { q[0].answer, q[1].answer })
      q[0].cookie = q[0].cookie - 1
      client:close()
      server:close()
      -- The side that closed first waits (TIME_WAIT); that is no connection any more.
      process.wait_for("both to be gone", 5, function()
        api.sock_diag_ask(diag, q, 2)
        return q[0].answer == GONE and q[1].answer == GONE
      end)
      listener:close()
    end)
  end

  it("are asked many at a time, and answered each", function()
    local ns = netns.new()
    local diag = ns:enter(open_diag)
    local _, client = tcp.connection(ns, "::1", 5777)
    local q = ffi.new("struct sock_diag_question[1000]")
    for i = 0, 999 do
      set_key(q[i].key, 6, "::1", i % 3 == 0 and client.port or 100 + i, "::1", i % 3 == 0 and 5777 or 1)
    end
    api.sock_diag_ask(diag, q, 1000)
    for i = 0, 999 do assert.equal(i % 3 == 0 and THERE or GONE, q[i].answer) end
  end)

  it("of another namespace find nothing", function()
    local ns, other = netns.new(), netns.new()
    local diag = other:enter(open_diag)
    local _, client = tcp.connection(ns, "::1", 5777)
    local q = ffi.new("struct sock_diag_question[1]")
    set_key(q[0].key, 6, "::1", client.port, "::1", 5777)
    api.sock_diag_ask(diag, q, 1)
    assert.equal(GONE, q[0].answer)
  end)
end)

describe("a flow table that asks about sockets", function()
  if not netns.available() then return end
  before_each(flows.quiet)
  after_each(cleanup.all)

  local state, t, batch, missed, ns, diag
  before_each(function()
    local message = ffi.new("char[512]")
    state = api.state_open(temp.dir() .. "/state", 200000, message, 512)
    assert.is_true(state ~= nil, ffi.string(message))
    t = api.flow_table_open(state)
    batch, missed = ffi.new("struct flow_batch"), ffi.new("struct flow_batch")
    ns = netns.new()
    diag = ns:enter(open_diag)
    api.flow_table_use_sockets(t, diag)
    cleanup.add(function()
      api.flow_table_close(t)
      api.state_close(state, true)
    end)
  end)

  local function put(list)
    ffi.fill(batch, ffi.sizeof(batch))
    batch.count = #list
    for i, item in ipairs(list) do
      local e = batch.event[i - 1]
      set_key(e.key, 6, "::1", item[2], "::1", item[4] or 5777)
      e.state, e.time_us, e.route = item[1], item[3], -1
      e.experiment, e.activity = 2, 2
    end
    api.flow_table_resolve(t, batch)
    api.flow_table_commit(t, batch, 0xff)
    return tonumber(api.flow_table_succeeded(t, missed))
  end

  local function release() api.flow_table_release(t, batch) end

  local function slot_of(port)
    local key = ffi.new("struct flow_key")
    set_key(key, 6, "::1", port, "::1", 5777)
    local slot = api.flow_table_find(t, key)
    return slot >= 0 and api.flow_table_slot(t, slot) or nil
  end

  local function record() return api.flow_table_record_sockets(t, 0, 1000000, api.clock_realtime_us()) end

  local function end_missed()
    assert.equal(C.FLOW_SLOT_NONE, api.flow_table_end_missed(t, 0, 1000000, missed))
    return missed.count
  end

  it("records the sockets that are there, and ends the flows of those that are gone then", function()
    local _, client, server = tcp.connection(ns, "::1", 5777)
    put({ { C.FLOW_START, client.port, 11 }, { C.FLOW_START, client.port == 99 and 98 or 99, 12 } })
    release()
    record()
    assert.equal(tcp.cookie(client), slot_of(client.port).socket_cookie)
    assert.equal(0ULL, slot_of(99).socket_cookie)
    assert.equal(0, end_missed())
    client:close()
    server:close()
    process.wait_for("the missed end", 5, function() return end_missed() == 1 end)
    local e = missed.event[0]
    assert.equal(C.FLOW_END, e.state)
    assert.equal(client.port, e.key.src_port)
    assert.equal(11ULL, e.start_us)
    assert.is_true(bit.band(e.flags, C.EVENT_DELIVER) ~= 0)
    api.flow_table_release(t, missed)
    assert.is_nil(slot_of(client.port))
    -- The other one never had a socket here.
    assert.is_truthy(slot_of(99))
    assert.equal(0, end_missed())
  end)

  it("takes a start for another flow's when the socket is gone, and only then", function()
    local _, client, server = tcp.connection(ns, "::1", 5777)
    local port = client.port
    put({ { C.FLOW_START, port, 11 } })
    release()
    record()
    assert.equal(0, put({ { C.FLOW_START, port, 12 } }))
    release()
    assert.equal(11ULL, slot_of(port).start_us)
    client:close()
    server:close()
    process.wait_for("both to be gone", 5, function()
      local q = ffi.new("struct sock_diag_question[1]")
      set_key(q[0].key, 6, "::1", port, "::1", 5777)
      api.sock_diag_ask(diag, q, 1)
      return q[0].answer == GONE
    end)
    -- The end that somebody tells comes first: nothing was missed.
    assert.equal(0, put({ { C.FLOW_END, port, 13 }, { C.FLOW_START, port, 14 } }))
    release()
    assert.equal(14ULL, slot_of(port).start_us)
    ffi.cast("struct flow_slot *", slot_of(port)).socket_cookie = 4711 -- was another one
    assert.equal(1, put({ { C.FLOW_START, port, 15 }, { C.FLOW_START, port, 16 } }))
    assert.equal(C.FLOW_END, missed.event[0].state)
    assert.equal(14ULL, missed.event[0].start_us)
    assert.equal(15ULL, batch.event[0].start_us)
    assert.equal(15ULL, batch.event[1].start_us)
    release()
    assert.equal(15ULL, slot_of(port).start_us)
    assert.equal(1, api.flow_table_count(t))
  end)

  it("keeps the loop free: 100,000 flows in slices of a few milliseconds", function()
    local list = {}
    for i = 0, 99999 do
      list[#list + 1] = { C.FLOW_START, 1 + i % 60000, 10 + i, 1 + math.floor(i / 60000) }
      if #list == 1000 then
        put(list)
        release()
        list = {}
      end
    end
    local slot = api.flow_table_next(t, 0)
    while slot >= 0 do
      ffi.cast("struct flow_slot *", api.flow_table_slot(t, slot)).socket_cookie = 1000 + slot
      slot = api.flow_table_next(t, slot + 1)
    end
    assert.equal(100000, api.flow_table_count(t))
    local times, ended, from = {}, 0, 0
    repeat
      local before = process.now()
      from = api.flow_table_end_missed(t, from, 8192, missed)
      times[#times + 1] = process.now() - before
      ended = ended + missed.count
      api.flow_table_release(t, missed)
    until from == C.FLOW_SLOT_NONE
    assert.equal(100000, ended)
    assert.equal(0, api.flow_table_count(t))
    table.sort(times)
    local median = times[math.ceil(#times / 2)]
    assert.is_true(median < 0.005, ("a slice took %.2f ms"):format(median * 1000))
  end)
end)
