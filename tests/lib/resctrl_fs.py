#!/usr/bin/env python3
"""An emulator of resctrl as a file system, by FUSE's protocol on /dev/fuse (no library): root only.

    resctrl_fs.py MOUNTPOINT [--options JSON] [--journal FILE] [--rules FILE]

options: fields of resctrl_model.Options. journal: a JSON line per call that changes something.
rules: a JSON file, read again when it changes:
    loads     [{"match": words of a command line, "working_set": bytes, "misses": lines per second
               while nothing of it is cached, "stream": lines per second in any case}]
    faults    {"mkdir" | "rmdir" | "write tasks" | ...: [errno name, words of last_cmd_status ...]}
    counters  {"llc_occupancy" | ...: what the file says instead ("Unavailable")}
    abort     true: the connection ends, as if the server had died

Prints "ready" when it is mounted; unmounts and ends with SIGTERM. As a module: Emulator.
"""
import argparse
import ctypes
import errno
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import resctrl_model  # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)
MAX_WRITE = 65536
DIRECT_IO = 1
(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, OPEN, READ, WRITE, STATFS, RELEASE,
 FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2) = (
    1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16, 17, 18, 25, 26, 27, 28, 29, 34, 36, 38, 42, 45)


class Server:
    def __init__(self, fd, model):
        self.fd, self.model = fd, model
        self.paths, self.ids = {1: ""}, {"": 1}

    def id_of(self, path):
        if path not in self.ids:
            self.ids[path] = len(self.paths) + 1
            self.paths[self.ids[path]] = path
        return self.ids[path]

    def path_of(self, node):
        return self.paths[node]

    def attr(self, path):
        with self.model.lock:
            is_dir = isinstance(self.model.find(path), dict)
        mode = 0o40755 if is_dir else 0o100644 if self.model.writable(path) else 0o100444
        return struct.pack("<6Q10I", self.id_of(path), 0, 0, 0, 0, 0, 0, 0, 0, mode,
                           2 if is_dir else 1, 0, 0, 0, 4096, 0)

    def entry(self, path):
        attr = self.attr(path)
        return struct.pack("<QQQQII", self.id_of(path), 0, 0, 0, 0, 0) + attr

    def child(self, node, name):
        return self.path_of(node) + "/" + name.split(b"\0", 1)[0].decode(errors="replace")

    def listing(self, path):
        with self.model.lock:
            node = self.model.find(path)
            names = [(".", 4), ("..", 4)]
            names += [(n, 4 if isinstance(x, dict) else 8) for n, x in node.items()]
        return names

    def readdir(self, path, offset, size):
        out = b""
        for i, (name, kind) in enumerate(self.listing(path)):
            raw = name.encode()
            one = struct.pack("<QQII", i + 1, i + 1, len(raw), kind) + raw
            one += b"\0" * (-len(one) % 8)
            if i >= offset:
                if len(out) + len(one) > size:
                    break
                out += one
        return out

    def answer(self, op, node, pid, body):
        m = self.model
        if op == INIT:
            return struct.pack("<IIIIHHIIHHI7I", 7, 31, 65536, 0, 12, 10, MAX_WRITE, 1, 16, 0,
                               0, *[0] * 7)
        if op == LOOKUP:
            return self.entry(self.child(node, body))
        if op in (GETATTR, SETATTR):
            return struct.pack("<QII", 0, 0, 0) + self.attr(self.path_of(node))
        if op in (OPEN, OPENDIR):
            with m.lock:
                m.find(self.path_of(node))
            return struct.pack("<QII", 0, DIRECT_IO, 0)
        if op == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return m.read(self.path_of(node)).encode()[offset:offset + size]
        if op == READDIR:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self.readdir(self.path_of(node), offset, size)
        if op == WRITE:
            size = struct.unpack_from("<QQI", body)[2]
            m.write(self.path_of(node), body[40:40 + size].decode(errors="replace"), pid)
            return struct.pack("<II", size, 0)
        if op == MKDIR:
            path = self.child(node, body[8:])
            m.mkdir(path)
            return self.entry(path)
        if op == RMDIR:
            m.rmdir(self.child(node, body))
            return b""
        if op in (RENAME, RENAME2):
            to = struct.unpack_from("<Q", body)[0]
            old, new = body[8 if op == RENAME else 16:].split(b"\0")[:2]
            m.rename(self.child(node, old), self.child(to, new))
            return b""
        if op == UNLINK:
            raise OSError(errno.EPERM, "")
        if op == STATFS:
            return struct.pack("<5Q4I6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
        if op in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def serve(self):
        while True:
            try:
                request = os.read(self.fd, MAX_WRITE + 4096)
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            _, op, unique, node, _, _, pid, _ = struct.unpack_from("<IIQQIIII", request)
            if op in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            if self.model.rule("abort"):
                return
            try:
                number, out = 0, self.answer(op, node, pid, request[40:])
            except OSError as e:
                number, out = e.errno, b""
            except Exception as e:  # a fault of the emulator itself: said, not swallowed
                print(f"resctrl_fs: {op}: {e!r}", file=sys.stderr, flush=True)
                number, out = errno.EIO, b""
            try:
                os.write(self.fd, struct.pack("<IiQ", 16 + len(out), -number, unique) + out)
            except OSError as e:
                if e.errno != errno.ENOENT:  # the caller was killed meanwhile
                    return


def tick(model):
    while True:
        time.sleep(0.1)
        with model.lock:
            model.advance()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("mountpoint")
    p.add_argument("--options", default="{}")
    p.add_argument("--journal")
    p.add_argument("--rules")
    a = p.parse_args()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    if libc.mount(b"resctrl", os.fsencode(a.mountpoint), b"fuse", 0, options.encode()) != 0:
        sys.exit(f"resctrl_fs: mount: {os.strerror(ctypes.get_errno())}")
    model = resctrl_model.Model(resctrl_model.Options(**json.loads(a.options)), a.journal, a.rules)

    def end(*_):
        libc.umount2(os.fsencode(a.mountpoint), 2)
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=tick, args=(model,), daemon=True).start()
    server = threading.Thread(target=Server(fd, model).serve, daemon=True)
    server.start()
    print("ready", flush=True)
    while server.is_alive():
        server.join(1)
    os.close(fd)
    libc.umount2(os.fsencode(a.mountpoint), 2)


class Emulator:
    """One, mounted; for tests."""

    def __init__(self, directory, **options):
        self.dir = pathlib.Path(directory)
        self.path = self.dir / "resctrl"
        self.journal_path = self.dir / "journal"
        self.rules_path = self.dir / "rules"
        self.path.mkdir(exist_ok=True)
        self.process = None
        self.options = options
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.path), "--options", json.dumps(self.options),
             "--journal", str(self.journal_path), "--rules", str(self.rules_path)],
            stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"the emulator says {line!r}")

    def rules(self, **rules):
        temporary = self.rules_path.with_suffix(".new")
        temporary.write_text(json.dumps(rules))
        temporary.rename(self.rules_path)

    def journal(self, **match):
        """Its lines, those whose fields are as given."""
        if not self.journal_path.exists():
            return []
        lines = [json.loads(x) for x in self.journal_path.read_text().splitlines()]
        return [x for x in lines if all(x.get(k) == v for k, v in match.items())]

    def read(self, name):
        return (self.path / name).read_text()

    def read_fails(self):
        try:
            self.read("schemata")
        except OSError:
            return True
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        libc.umount2(os.fsencode(str(self.path)), 2)


if __name__ == "__main__":
    main()
