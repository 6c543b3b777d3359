-- SPDX-License-Identifier: Apache-2.0
--- Certificates for tests, made with the openssl command.
---
---     local certificates = require("spec.support.certificates")
---     local dir = temp.dir()
---     local ca = certificates.authority(dir, "ca")              -- ca.file, ca.key
---     local cert = ca:issue("server", "DNS:localhost,IP:::1")   -- cert.file, cert.key
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local certificates = {}
local Authority = {}
Authority.__index = Authority

local function openssl(...) return process.must({ "openssl", ... }) end

local function key(path) openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path) end

--- A certificate authority of its own.
---@param dir string
---@param name string
function certificates.authority(dir, name)
  local self = setmetatable({ dir = dir, name = name, file = dir .. "/" .. name .. ".pem", key = dir .. "/" .. name .. ".key" },
    Authority)
  key(self.key)
  openssl("req", "-x509", "-new", "-key", self.key, "-subj", "/CN=" .. name, "-days", "30", "-out", self.file)
  return self
end

--- A certificate of this authority.
---@param name string of its files
---@param names string subjectAltName: "DNS:localhost,IP:::1"
---@param expired boolean|nil
function Authority:issue(name, names, expired)
  local base = self.dir .. "/" .. name
  local cert = { file = base .. ".pem", key = base .. ".key" }
  key(cert.key)
  openssl("req", "-new", "-key", cert.key, "-subj", "/CN=" .. name, "-out", base .. ".csr")
  local ca = self.dir .. "/" .. self.name .. ".ca"
  temp.write(base .. ".cnf", ([[
[ca]
default_ca = it
[it]
database = %s.index
serial = %s.serial
new_certs_dir = %s
certificate = %s
private_key = %s
default_md = sha256
policy = any
unique_subject = no
x509_extensions = names
[any]
commonName = supplied
[names]
basicConstraints = CA:FALSE
subjectAltName = %s
]]):format(ca, ca, self.dir, self.file, self.key, names))
  if not temp.exists(ca .. ".index") then
    temp.write(ca .. ".index", "")
    temp.write(ca .. ".serial", "1000\n")
  end
  openssl("ca", "-batch", "-notext", "-config", base .. ".cnf", "-in", base .. ".csr", "-out", cert.file,
    "-startdate", "20200101000000Z", "-enddate", expired and "20210101000000Z" or "20991231000000Z")
  return cert
end

return certificates
