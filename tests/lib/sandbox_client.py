"""A launcher without the agent: starts tests/system/sandbox_driver.c, speaks its protocol
(agent/sandbox/sandbox_msg.h) and makes image trees by hand.

    box = Launcher(driver, slots=4)          starts; box.hello has what it said
    layer = box.layer(lambda root: ...)      a directory in layers/, owned by the storage ids
    run = box.run(layers=[layer], argv=["/bin/sh", "-c", "echo hi"])
    end = box.wait_ended(run)                end["exit_code"], end["reason"], …
    box.output(run), box.log(run)
"""
import array
import hashlib
import ipaddress
import os
import pathlib
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

MSG_SIZE = 1536
READY, PING, RUN, STOP, SIGNAL, UNPACK, REMOVE_RUN, REMOVE_LAYER, ADOPT = range(1, 10)
HELLO, STARTED, ENDED, FAILED, UNPACKED, RUN_REMOVED, LAYER_REMOVED, ADOPTED = range(32, 40)
NAMES = {HELLO: "hello", STARTED: "started", ENDED: "ended", FAILED: "failed", UNPACKED: "unpacked",
         RUN_REMOVED: "run_removed", LAYER_REMOVED: "layer_removed", ADOPTED: "adopted"}
REASONS = {1: "exit", 2: "signal", 3: "oom", 4: "timeout", 5: "stopped", 6: "output", 7: "setup",
           8: "lost"}
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
UID_BASE = 1879048192


def ulid_text(b):
    n = int.from_bytes(b, "big")
    return "".join(CROCKFORD[(n >> (5 * i)) & 31] for i in range(25, -1, -1))


def new_ulid():
    return int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(10)


def encode(type_, run=bytes(16), attempt=0, value=0, rc=0, digest=None):
    algo, body = (1, digest + bytes(32)) if digest else (0, bytes(64))
    head = struct.pack("<IiII16sI64s", type_, rc, attempt, value, run, algo, body)
    return head + bytes(MSG_SIZE - len(head))


def decode(b):
    type_, rc, attempt, value, run, algo, digest = struct.unpack_from("<IiII16sI64s", b)
    at = struct.calcsize("<IiII16sI64s")
    numbers = struct.unpack_from("<16Q", b, at)
    at += 128
    text = b[at:at + 256].split(b"\0")[0].decode(errors="replace")
    at += 256
    record = b[at:at + 512]
    at += 512
    base = struct.unpack_from("<32Q", b, at)
    end = struct.unpack_from("<32Q", b, at + 256)
    return {"type": NAMES.get(type_, type_), "rc": rc, "attempt": attempt, "value": value,
            "run": run, "digest": digest[:32], "numbers": numbers, "text": text,
            "record": record, "base": base, "end": end}


def decode_record(r):
    w = struct.unpack_from("<19Q", r)
    text = r[152:152 + 256].split(b"\0")[0].decode(errors="replace")
    return {"reason": REASONS[w[1]], "exit_code": w[2], "signal": w[3], "started_wall_us": w[4],
            "ended_wall_us": w[5], "setup_us": w[8], "stdout_bytes": w[9], "stdout_kept": w[10],
            "stderr_bytes": w[11], "stderr_kept": w[12], "stdout_truncated": bool(w[13] & 1),
            "stderr_truncated": bool(w[13] & 2), "cpu_user_us": w[14], "cpu_system_us": w[15],
            "maxrss": w[16], "text": text}


DEFAULTS = dict(memory_bytes=256 << 20, cpus_milli=0, cpu_weight=0, pids=64, disk_bytes=64 << 20,
                disk_inodes=4096, shm_bytes=64 << 20, nofile=1024, core_bytes=0, timeout_ms=60000,
                grace_ms=2000, output_bytes=64 << 20, log_bytes=1 << 20, output_truncate=0,
                network=0, cache=0)


def spec_blob(run, attempt, layers, argv, env=(), workdir="", user="", hostname="sandbox",
              stop_signal=15, payload=False, egress=None, **limits):
    l = {**DEFAULTS, **limits}
    out = struct.pack("<II16sIIIIII", 0x50534741, 3, run, attempt, len(argv), len(env), len(layers),
                      stop_signal, 1 if payload else 0)
    out += struct.pack("<16Q", *(l[k] for k in DEFAULTS))
    for d in layers:
        out += struct.pack("<I", 1) + d
    for s in [workdir, user, hostname, *argv, *env]:
        s = s.encode() if isinstance(s, str) else s
        out += struct.pack("<I", len(s) + 1) + s + b"\0"
    return out + egress_blob(egress)


def egress_blob(rules):
    """[("10.0.0.0/8", "tcp", 5432, 5432), …]; None: everything that is not closed."""
    protos = {"any": 0, "tcp": 6, "udp": 17}
    out = struct.pack("<II", 0 if rules is None else 1, len(rules or ()))
    for net, proto, first, last in rules or ():
        if net == "*":
            kind, prefix, addr = 1, 0, b""
        else:
            n = ipaddress.ip_network(net)
            kind, prefix, addr = 2 if n.version == 4 else 3, n.prefixlen, n.network_address.packed
        out += struct.pack("<BBBBHH16s", kind, prefix, protos[proto], 0, first, last, addr)
    return out


def sealed(blob):
    fd = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    os.write(fd, blob)
    import fcntl
    fcntl.fcntl(fd, 1033, 0xe)  # F_ADD_SEALS: shrink, grow, write
    return fd


class Launcher:
    def __init__(self, driver, data=None, start=True, enter=(), **settings):
        self.driver = str(driver)
        self.enter = list(enter)  # a command that executes the rest of its line
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="agent-sandbox-"))
        self.dir.chmod(0o711)
        self.data = self.dir / "data"
        self.socket_path = str(self.dir / "sock")
        self.settings = {"node.data_dir": self.data, "node.user": "65534:65534"}
        self.settings.update({k.replace("__", "."): v for k, v in settings.items()})
        self.process = None
        self.sock = None
        self.events = []
        self.layers_made = 0
        if start:
            self.start()

    # -- the launcher

    def start(self):
        args = [*self.enter, self.driver, "launcher", self.socket_path]
        args += [f"--{k}={v}" for k, v in self.settings.items()]
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        self.connect()

    def connect(self, seconds=15):
        end = time.monotonic() + seconds
        while True:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                s.settimeout(2)
                s.connect(self.socket_path)
                fds = array.array("i")
                msg, ancillary, _, _ = s.recvmsg(64, socket.CMSG_SPACE(64))
                for level, kind, data in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        fds.frombytes(data[:4])
                self.agent_pid, self.agent_uid = map(int, msg.split())
                self.sock = socket.socket(fileno=fds[0])
                break
            except (OSError, ValueError, IndexError):
                assert self.process.poll() is None, "the launcher ended:\n" + self.log_text()
                assert time.monotonic() < end, "no agent process:\n" + self.log_text()
                time.sleep(0.02)
            finally:
                s.close()
        self.events = []
        self.hello = self.wait("hello")

    def log_text(self):
        return (self.dir / "log").read_text(errors="replace")

    def kill(self, which=signal.SIGKILL):
        self.process.send_signal(which)
        self.process.wait(20)
        self.close_sock()

    def close_sock(self):
        if self.sock:
            self.sock.close()
            self.sock = None

    def close(self):
        """Ends everything that this launcher and those before it started."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close_sock()
        for pid in self.survivors():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        end = time.monotonic() + 5
        while self.survivors() and time.monotonic() < end:
            time.sleep(0.02)
        self.remove_groups()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def group_name(self):
        h = 0xcbf29ce484222325
        for b in str(self.data).encode():
            h = ((h ^ b) * 0x100000001b3) & (1 << 64) - 1
        return f"agent-{h & 0xffffffff:08x}"

    def groups(self):
        """Our groups in every hierarchy; other launchers' come and go meanwhile."""
        found = []
        for line in open("/proc/self/mountinfo"):
            if " - cgroup" in line:
                for path, names, _ in os.walk(line.split()[4], onerror=lambda e: None):
                    if self.group_name() in names:
                        found.append(pathlib.Path(path) / self.group_name())
        return found

    def survivors(self):
        pids = set()
        for g in self.groups():
            for path, _, _ in os.walk(g, onerror=lambda e: None):
                try:
                    text = (pathlib.Path(path) / "cgroup.procs").read_text()
                except OSError:
                    continue
                pids |= {int(p) for p in text.split() if p != "0"}
        return pids

    def remove_groups(self):
        for g in self.groups():
            for d in sorted((p for p in g.rglob("*") if p.is_dir()), reverse=True):
                try:
                    d.rmdir()
                except OSError:
                    pass
            try:
                g.rmdir()
            except OSError:
                pass

    # -- messages

    def send(self, msg, fds=()):
        socket.send_fds(self.sock, [msg], list(fds))

    def receive(self, seconds):
        self.sock.settimeout(seconds)
        msg, fds, _, _ = socket.recv_fds(self.sock, MSG_SIZE + 1, 32)
        if not msg:
            raise EOFError("the launcher hung up:\n" + self.log_text())
        assert len(msg) == MSG_SIZE
        event = decode(msg)
        event["fds"] = list(fds)
        return event

    def wait(self, type_, run=None, seconds=30, keep=True):
        """The first event of this type (about this run), now or later; it is taken out."""
        end = time.monotonic() + seconds
        while True:
            for i, e in enumerate(self.events):
                if e["type"] == type_ and (run is None or e["run"] == run):
                    return self.events.pop(i)
            left = end - time.monotonic()
            seen = [(e["type"], e["rc"], e["text"]) for e in self.events[-8:]]
            assert left > 0, f"no {type_} within {seconds} s; {seen}\n" + self.log_text()[-2000:]
            try:
                self.events.append(self.receive(left))
            except TimeoutError:
                pass

    # -- layers and runs

    def layer(self, fill):
        """A layer made by `fill(root)`; everything in it gets the storage range's ids."""
        self.layers_made += 1
        digest = hashlib.sha256(f"{self.dir} {self.layers_made}".encode()).digest()
        root = self.data / "layers" / digest.hex()
        root.mkdir(mode=0o755)
        root.chmod(0o755)
        fill(root)
        for path in [root, *root.rglob("*")]:
            st = path.lstat()
            os.lchown(path, UID_BASE + st.st_uid, UID_BASE + st.st_gid)
            if not path.is_symlink():
                os.chmod(path, st.st_mode & 0o7777)
        return digest

    def payload(self, run, content):
        path = self.data / "spool" / ulid_text(run)
        path.write_bytes(content)
        os.chown(path, 65534, 65534)

    def run(self, layers, argv, run=None, attempt=1, stdin=None, **spec):
        run = run or new_ulid()
        if stdin is not None:
            self.payload(run, stdin)
            spec["payload"] = True
        fd = sealed(spec_blob(run, attempt, layers, argv, **spec))
        self.send(encode(RUN, run, attempt), [fd])
        os.close(fd)
        return run

    def wait_started(self, run, seconds=30):
        e = self.wait("started", run, seconds)
        for fd in e["fds"]:
            os.close(fd)
        e["pid"], e["setup_us"], e["adopted"] = e["numbers"][1], e["numbers"][3], e["numbers"][5]
        e["kind"], e["slot"] = e["numbers"][2], e["numbers"][0]
        return e

    def wait_ended(self, run, seconds=60):
        e = self.wait("ended", run, seconds)
        return {**e, **decode_record(e["record"])}

    def execute(self, layers, argv, **spec):
        """Runs to the end: (result, stdout, stderr)."""
        run = self.run(layers, argv, **spec)
        end = self.wait_ended(run)
        return end, self.output(run), self.log_of(run)

    def run_dir(self, run, attempt=1):
        return self.data / "runs" / f"{ulid_text(run)}.{attempt}"

    def output(self, run, attempt=1):
        return (self.run_dir(run, attempt) / "stdout").read_bytes()

    def log_of(self, run, attempt=1):
        return (self.run_dir(run, attempt) / "stderr").read_bytes()


def busybox_layer(root):
    """A root with a static busybox and its usual links."""
    for d in ("bin", "etc", "tmp", "root", "usr/bin"):
        (root / d).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for name in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True,
                               check=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n"
                                     "app:x:1000:1001:app:/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1001:\nextra:x:1002:app\n")
