"""What the system tests share: nodes of the real binary, started on free loopback ports with a data
directory of their own.

    node         a fresh node for one test
    shared_node  one node for all tests that only use it
    image        "lab/busybox:1", pushed to shared_node
    image_tar    the same image as a `docker save` archive
    make_node    make_node(**settings): more nodes, or nodes with settings; section.key is written
                 section__key
"""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))
import tiny_image  # noqa: E402

AGENT = os.environ.get("AGENT", str(TOP / "build" / "agent"))
IMAGE = "lab/busybox:1"
PREFIX = f"agent-test-{os.getpid()}-"  # of this session: another one may run beside it
ENDED = ("succeeded", "failed", "timed_out", "cancelled", "lost")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, seconds=20, every=0.02):
    """Calls `what` until it is true; its value. Fails with its name after the time."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what.__doc__ or what.__name__}"
        time.sleep(every)


class Node:
    """One `agent serve`. The object survives stop(), kill() and another start(): same data, same
    ports."""

    def __init__(self, **settings):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX))
        self.dir.chmod(0o711)
        self.data = self.dir / "data"
        self.log_path = self.dir / "log"
        self.port = free_port()
        self.addr = f"127.0.0.1:{self.port}"
        self.settings = {
            "node.data_dir": self.data,
            "node.user": "nobody",
            "http.listen": self.addr,
            "gossip.listen": f"127.0.0.1:{free_port()}",
        }
        self.settings.update({k.replace("__", "."): v for k, v in settings.items()})
        self.process = None

    # -- the daemon

    def start(self, wait=True, env=None):
        args = [AGENT, "serve", *(f"--{k}={v}" for k, v in self.settings.items())]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(env or {})})
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=20):
        def ready():
            """the node is ready"""
            assert self.process.poll() is None, \
                f"agent serve ended with {self.process.returncode}:\n{self.log()}"
            try:
                return self.http("GET", "/readyz", timeout=2).status == 200
            except OSError:
                return False
        try:
            wait_for(ready, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log()}") from e

    def stop(self, seconds=30):
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(seconds)

    def kill(self):
        """SIGKILL to the launcher."""
        self.process.kill()
        self.process.wait(10)

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def agent_pid(self):
        """The unprivileged process: the launcher's child that runs as node.user, or None."""
        uid = int(subprocess.check_output(["id", "-u", str(self.settings["node.user"])]))
        for pid in children(self.process.pid):
            status = proc_status(pid)
            if status.get("Uid", "").split()[:1] == [str(uid)]:
                return pid
        return None

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        log = self.log()
        shutil.rmtree(self.dir)
        # The agent process's system call filter has let everything through that it needs.
        assert "filter refused" not in log, log[-4000:]

    # -- the client and the API

    def cli(self, *args, stdin=b"", check=True, timeout=60, env=None):
        """Runs a client command; its CompletedProcess with bytes."""
        p = subprocess.run([AGENT, *map(str, args)], input=stdin, capture_output=True,
                           timeout=timeout,
                           env={**os.environ, "AGENT_ADDR": self.addr, **(env or {})})
        if check:
            assert p.returncode == 0, f"agent {args}: exit {p.returncode}\n" \
                f"{p.stdout[-2000:]!r}\n{p.stderr[-2000:]!r}\n{self.log()[-4000:]}"
        return p

    def http(self, method, path, body=None, headers=None, timeout=30):
        """One request on a connection of its own. The answer has .status, .headers, .body and
        .json()."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                headers = {"Content-Type": "application/json", **(headers or {})}
            c.request(method, path, body=body, headers=headers or {})
            r = c.getresponse()
            r.body = r.read()
            r.json = lambda: json.loads(r.body)
            return r
        finally:
            c.close()

    def raw(self, data, timeout=10):
        """Sends bytes as they are; all that comes back until the node closes or falls silent."""
        out = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            s.sendall(data)
            try:
                while chunk := s.recv(65536):
                    out += chunk
            except (TimeoutError, ConnectionResetError):
                pass
        return out

    def submit(self, *args, stdin=b""):
        """Starts a run by the client; its id."""
        return json.loads(self.cli("submit", "-o", "json", *args, stdin=stdin).stdout)["id"]

    def run(self, run_id):
        r = self.http("GET", f"/v1/runs/{run_id}")
        assert r.status == 200, r.body
        return r.json()

    def wait_run(self, run_id, seconds=60):
        """Waits for the end of a run; its record."""
        def ended():
            """the run has ended"""
            record = self.run(run_id)
            return record if record["state"] in ENDED else None
        return wait_for(ended, seconds)


def children(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(x) for x in text.split()]


def proc_status(pid):
    """/proc/PID/status as a dict; empty when the process is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {k: v.strip() for k, v in (line.split(":", 1) for line in lines)}


@pytest.fixture(scope="session", autouse=True)
def needs_root():
    if os.geteuid() != 0:
        pytest.skip("the daemon needs root")


@pytest.fixture
def make_node():
    nodes = []

    def make(start=True, **settings):
        node = Node(**settings)
        nodes.append(node)
        return node.start() if start else node

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node):
    return make_node()


# It names nothing_left, so that it ends before that looks: pytest ends fixtures of one scope in the
# order of their last use otherwise.
@pytest.fixture(scope="session")
def shared_node(nothing_left):
    node = Node().start()
    yield node
    node.close()


@pytest.fixture(scope="session")
def image_tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    tiny_image.write_docker_save(str(path), IMAGE)
    return path


@pytest.fixture(scope="session")
def image(shared_node, image_tar):
    shared_node.cli("push", image_tar)
    return IMAGE


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """After all tests: no mount and no process of a test's node."""
    yield
    assert PREFIX not in pathlib.Path("/proc/self/mountinfo").read_text()
    left = []
    for d in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (d / "cmdline").read_bytes()
        except OSError:
            continue
        if PREFIX.encode() in command and d.name != str(os.getpid()):
            left.append(command.replace(b"\0", b" "))
    assert not left, left
