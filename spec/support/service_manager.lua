-- SPDX-License-Identifier: Apache-2.0
--- A service manager as systemd is one for a unit with Restart= and FileDescriptorStoreMax=: it starts the daemon,
--- keeps the descriptors that it is given, and hands them to the next one.
---
---     local manager = service_manager.new(dir)
---     local d = daemon.start({ dir = dir, prefix = manager.prefix, ... })
---     process.must({ "kill", "-9", tostring(manager:pid()) })
---     manager:again()
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local source = [==[
import array, os, select, signal, socket, subprocess, sys, time
directory, argv = sys.argv[1], sys.argv[2:]
path = directory + '/manager'
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(path)
store = []

def listen():
    while select.select([s], [], [], 0)[0]:
        data, control, _, _ = s.recvmsg(4096, 512)
        lines = data.decode().split('\n')
        names = [line[7:] for line in lines if line.startswith('FDNAME=')]
        fds = [fd for _, _, octets in control for fd in array.array('i', octets)]
        if 'FDSTORE=1' in lines:
            for fd in fds:
                # What is there already is not kept twice.
                if any(os.path.samestat(os.fstat(fd), os.fstat(known)) for _, known in store):
                    os.close(fd)
                else:
                    store.append((names[0], fd))
        if 'FDSTOREREMOVE=1' in lines:
            for entry in [e for e in store if e[0] == names[0]]:
                os.close(entry[1])
                store.remove(entry)

def run():
    env = dict(os.environ, NOTIFY_SOCKET=path)
    command, pass_fds = list(argv), ()
    if store:
        env.update(LISTEN_FDS=str(len(store)), LISTEN_FDNAMES=':'.join(name for name, _ in store))
        moves = ' '.join('%d<&%d' % (3 + i, 100 + i) for i in range(len(store)))
        for i, (_, fd) in enumerate(store):
            os.dup2(fd, 100 + i)
        pass_fds = tuple(100 + i for i in range(len(store)))
        close = ' '.join('%d<&-' % n for n in pass_fds)
        command = ['bash', '-c', 'export LISTEN_PID=$$; exec %s; exec %s; exec "$@"' % (moves, close), 'bash'] + command
    child = subprocess.Popen(command, env=env, pass_fds=pass_fds)
    for fd in pass_fds:
        os.close(fd)
    with open(directory + '/main.new', 'w') as file:
        file.write(str(child.pid))
    os.rename(directory + '/main.new', directory + '/main')
    return child

child = run()
signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
while True:
    listen()
    status = child.poll()
    if status is not None:
        listen()
        print('ended %d with %d descriptors' % (status, len(store)), flush=True)
        if status >= 0:
            sys.exit(status)
        while not os.path.exists(directory + '/again'):
            time.sleep(0.005)
        os.remove(directory + '/again')
        child = run()
    time.sleep(0.005)
]==]

local service_manager = {}
local methods = {}
local meta = { __index = methods }

---@param dir string a directory for it
---@return table manager `prefix`: words that start a command under it
function service_manager.new(dir)
  local script = temp.write(dir .. "/manager.py", source)
  return setmetatable({ dir = dir, prefix = { "python3", script, dir } }, meta)
end

--- The process that it has started.
---@return integer
function methods:pid() return tonumber(temp.read(self.dir .. "/main")) end

--- Start the one that was killed again.
function methods:again()
  local before = self:pid()
  temp.write(self.dir .. "/again", "")
  process.wait_for("another process", 10, function() return self:pid() ~= before end)
end

return service_manager
