-- SPDX-License-Identifier: Apache-2.0
local message = require("flowd.net.http_message")

-- The message in a text, fed at once and octet by octet; both must give the same.
local function read(kind, text, options)
  local whole = message.reader(kind, options)
  local done, why, status = whole:feed(text)
  local pieces = message.reader(kind, options)
  local piecewise
  for i = 1, #text do
    local is_done
    is_done, piecewise = pieces:feed(text:sub(i, i))
    if is_done == nil then break end
  end
  assert.same(whole.message, pieces.message)
  assert.equal(why, piecewise)
  return done and whole.message or nil, why, status, whole
end

local function refused(kind, text, options)
  local m, why, status = read(kind, text, options)
  assert.is_nil(m)
  return why, status
end

describe("HTTP messages", function()
  it("are read: a request with a body", function()
    local m = read("request", "POST /flow?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Two:  b \r\nX-Two: c\r\n\r\nhello")
    assert.same({ method = "POST", target = "/flow?x=1", minor = 1, body = "hello",
      headers = { host = "a", ["content-length"] = "5", ["x-two"] = "b, c" } }, m)
  end)

  it("are read: an answer in chunks, after a 100, with trailers", function()
    local m = read("response", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 All right\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n")
    assert.equal("hello world", m.body)
    assert.equal("All right", m.reason)
  end)

  it("are read: an answer that ends with the connection", function()
    local reader = message.reader("response")
    assert.is_false(reader:feed("HTTP/1.0 200 OK\r\n\r\nhel"))
    assert.is_false(reader:feed("lo"))
    assert.is_true(reader:finish())
    assert.equal("hello", reader.message.body)
  end)

  it("leave what is behind them", function()
    local _, _, _, reader = read("request", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2")
    assert.equal("GET /2", reader.rest)
  end)

  it("without a body are known: HEAD, 204, 304", function()
    assert.equal("", read("response", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", { bodiless = true }).body)
    assert.equal("", read("response", "HTTP/1.1 204 No\r\n\r\n").body)
    assert.equal("", read("response", "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n").body)
  end)

  it("that are cut off are told from those that ended", function()
    local function cut(text)
      local reader = message.reader("response")
      reader:feed(text)
      return select(2, reader:finish())
    end
    assert.equal("the connection was closed without an answer", cut(""))
    assert.equal("the answer is cut off within its headers", cut("HTTP/1.1 200 OK\r\nConte"))
    assert.equal("the answer is cut off: 3 of 5 octets came", cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"))
    assert.equal("the answer is cut off after 3 octets", cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"))
  end)

  it("that are no such thing are refused", function()
    for _, text in ipairs({
      "GET / HTTP/1.1\r\nHost : a\r\n\r\n", -- a blank before the colon
      "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      "GET / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
      "GET / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
      "GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
      "GET /a b HTTP/1.1\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nX: \0\r\n\r\n",
    }) do
      local why, status = refused("request", text)
      assert.equal(400, status, text)
      assert.is_string(why)
    end
    assert.equal(505, select(2, refused("request", "GET / HTTP/2.0\r\n\r\n")))
    assert.equal(501, select(2, refused("request", "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")))
    assert.equal('not an HTTP answer: it begins with "SSH-2.0"', (refused("response", "SSH-2.0\r\n\r\n")))
  end)

  it("that are too large are refused before they are kept", function()
    assert.equal(413, select(2, refused("request", "PUT / HTTP/1.1\r\nContent-Length: 11\r\n\r\n", { body_max = 10 })))
    assert.equal(413, select(2, refused("request", "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n", { body_max = 10 })))
    local reader = message.reader("response", { body_max = 10 })
    reader:feed("HTTP/1.1 200 OK\r\n\r\n0123456789")
    assert.same({ nil, "a body of more than 10 octets", 413 }, { reader:feed("x") })
    reader = message.reader("request", { head_max = 100 })
    assert.equal(431, select(3, reader:feed("GET / HTTP/1.1\r\nX: " .. ("x"):rep(100))))
  end)

  it("are read in linear time, whatever they hold", function()
    local clock = os.clock()
    local reader = message.reader("request", { head_max = 40000 })
    reader:feed("GET / HTTP/1.1\r\nX:" .. (" "):rep(15000) .. "x" .. (" "):rep(15000) .. "\0\r\n\r\n")
    assert.is_true(os.clock() - clock < 0.5)
  end)

  it("are written; a header cannot hold another one", function()
    assert.equal("GET / HTTP/1.1\r\nHost: a\r\n\r\n", message.head("GET / HTTP/1.1", { { "Host", "a" } }))
    assert.has_error(function() message.head("x", { { "X", "a\r\nY: b" } }) end)
    assert.has_error(function() message.head("x", { { "X Y", "a" } }) end)
  end)
end)

describe("URLs", function()
  it("are taken apart", function()
    local function parts(url)
      local u = assert(message.parse_url(url))
      return { u.scheme, u.host, u.port, u.target, u.user }
    end
    assert.same({ "https", "a.example.org", 443, "/" }, parts("https://a.example.org"))
    assert.same({ "http", "::1", 8080, "/x?y=z", "me:pw" }, parts("HTTP://me:pw@[::1]:8080/x?y=z#part"))
    assert.same({ "https", "a", 443, "/?q" }, parts("https://a?q"))
  end)

  it("that cannot be asked are refused", function()
    assert.equal('"ftp://a": expected a URL that begins with https:// or http://', select(2, message.parse_url("ftp://a")))
    assert.equal('"http://:80/": expected a host, and perhaps a port, behind ://', select(2, message.parse_url("http://:80/")))
    assert.equal('"http://a:99999": expected a port from 1 to 65535', select(2, message.parse_url("http://a:99999")))
    assert.equal('not a URL: "http://a b"', select(2, message.parse_url("http://a b")))
  end)

  it("are joined with what a redirect says", function()
    local base = message.parse_url("https://a:444/b/c?d")
    assert.equal("http://x/", message.join_url(base, "http://x/"))
    assert.equal("https://x/y", message.join_url(base, "//x/y"))
    assert.equal("https://a:444/y", message.join_url(base, "/y"))
    assert.equal("https://a:444/b/y", message.join_url(base, "y"))
    assert.equal("https://a:444/b/c?y", message.join_url(base, "?y"))
  end)
end)

describe("base64", function()
  it("is that of RFC 4648", function()
    for text, expected in pairs({ [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==" }) do
      assert.equal(expected, message.base64(text))
    end
  end)
end)
