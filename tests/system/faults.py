"""What the tests of faults share: killing parts of a node, jobs whose output can be checked to the
byte, and what a node leaves behind."""
import os
import pathlib
import signal
import time

from conftest import children, proc_status, wait_for

# Numbered lines over about a second and a half, some MiB of them; a tick on stderr for each block.
BLOCKS, LINES = 15, 30000
STREAM = f"for i in $(seq 1 {BLOCKS}); do seq 1 {LINES}; echo tick $i >&2; sleep 0.1; done; exit 7"
STREAM_OUTPUT = "".join(f"{n}\n" for n in range(1, LINES + 1)).encode() * BLOCKS
STREAM_LOG = "".join(f"tick {n}\n" for n in range(1, BLOCKS + 1)).encode()


def shell(script, image="lab/busybox:1", **fields):
    """A job document that runs a script."""
    return {"image": image, "command": ["sh", "-c", script], **fields}


def put_job(node, name, document):
    r = node.http("PUT", f"/v1/jobs/{name}", document)
    assert r.status in (200, 201), r.body


def trigger(node, job, payload=b"", key=None, tries=200):
    """Submits as a stubborn client does: again with the same key until it is answered. The id."""
    headers = {"Content-Type": "application/octet-stream"}
    if key is not None:
        headers["Idempotency-Key"] = key
    for _ in range(tries):
        try:
            r = node.http("POST", f"/v1/jobs/{job}/runs", payload, headers, timeout=10)
        except OSError:
            r = None
        except Exception as e:  # the connection ended in the middle of an answer
            if type(e).__module__ != "http.client":
                raise
            r = None
        if r is not None and r.status == 202:
            return r.json()["id"]
        assert r is None or r.status in (409, 503), (r.status, r.body)
        assert key is not None or r is not None, "the connection ended"
        time.sleep(0.05)
    raise AssertionError(f"'{job}' was not accepted in {tries} tries")


def records(node, ids):
    return {i: node.run(i) for i in ids}


def output(node, run):
    r = node.http("GET", f"/v1/runs/{run}/output", timeout=60)
    assert r.status == 200, r.body
    return r.body


def log_of(node, run):
    r = node.http("GET", f"/v1/runs/{run}/logs", timeout=60)
    assert r.status == 200, r.body
    return r.body


def sandbox_pids(node):
    """Process ids of live sandboxes' inits, by their owner: init's id is that of no job."""
    init_uid = str(int(node.settings.get("sandbox.uid_base", 1879048192)) + 65535)
    out = []
    for d in pathlib.Path("/proc").glob("[0-9]*"):
        status = proc_status(int(d.name))
        if status.get("Uid", "").split()[:1] == [init_uid] and in_groups_of(node, int(d.name)):
            out.append(int(d.name))
    return out


def group(node):
    """The name of the node's cgroups: agent-<hash of data_dir>."""
    h = 0xcbf29ce484222325
    for b in str(node.settings["node.data_dir"]).encode():
        h = ((h ^ b) * 0x100000001b3) & (2**64 - 1)
    return f"agent-{h & 0xffffffff:08x}"


def in_groups_of(node, pid):
    try:
        return group(node) in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def groups_left(node):
    """Directories of the node's cgroups, in every hierarchy."""
    out = []
    for top, dirs, _ in os.walk("/sys/fs/cgroup"):
        if group(node) in dirs:
            out.append(os.path.join(top, group(node)))
    return out


def processes_left(node):
    """Processes that are in the node's cgroups or name its directory."""
    out = []
    for d in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (d / "cmdline").read_bytes()
        except OSError:
            continue
        if int(d.name) != os.getpid() and (str(node.dir).encode() in command or
                                           in_groups_of(node, int(d.name))):
            state = proc_status(d.name).get("State")
            out.append((int(d.name), command.replace(b"\0", b" "), state))
    return out


def assert_nothing_left(node):
    """After a stop, with every run ended: no process, no mount, no cgroup, no spare or foreign
    directory under runs/, no slot file."""
    def gone():
        """the node's processes are gone"""
        return not processes_left(node)
    try:
        wait_for(gone, 10)
    except AssertionError:
        raise AssertionError(f"left: {processes_left(node)}\n{node.log()[-3000:]}") from None
    assert str(node.dir) not in pathlib.Path("/proc/self/mountinfo").read_text()
    assert groups_left(node) == []
    assert list((node.data / "slots").iterdir()) == []
    for place in ("runs", "layers"):
        names = [d.name for d in (node.data / place).iterdir()]
        assert not [n for n in names if n.startswith(("tmp", "."))], names


def run_dirs(node):
    """{run id: [attempts]} as the directories under runs/ say; spare ones apart."""
    out = {}
    for d in (node.data / "runs").iterdir():
        if not d.name.startswith("."):
            run, attempt = d.name.rsplit(".", 1)
            out.setdefault(run, []).append(int(attempt))
    return {run: sorted(attempts) for run, attempts in out.items()}


# ---- kills: each returns when what it killed is dead ----

def await_death(pid):
    def dead():
        """the killed process is dead"""
        return proc_status(pid).get("State", "Z").startswith(("Z", "X"))
    wait_for(dead, 10, 0.005)


def kill_agent(node):
    """The unprivileged process. False: it was not there."""
    pid = node.agent_pid()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_launcher(node):
    agent = node.agent_pid()
    node.kill()
    if agent is not None:
        await_death(agent)  # it follows its launcher
    return True


def kill_both(node):
    kill_agent(node)
    return kill_launcher(node)


def kill_all_but_sandboxes(node):
    """Launcher, agent, spawners, workers: whatever is no sandbox."""
    boxes = set(sandbox_pids(node))
    rest = [p for p in children(node.process.pid) if p not in boxes]
    os.kill(node.process.pid, signal.SIGSTOP)  # it makes no new ones
    for pid in rest:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    node.kill()
    for pid in rest:
        await_death(pid)
    return True
