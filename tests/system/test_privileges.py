"""The network-facing process, as if it had been taken over: what its user may do, what its system
call filter leaves of that, and what it holds."""
import os
import pathlib
import re
import subprocess

import pytest

import faults
from conftest import AGENT, proc_status, wait_for
from faults import shell, trigger

DRIVER = pathlib.Path(AGENT).resolve().parent / "agent_driver"


@pytest.fixture
def scene(make_node, image_tar):
    """A node with one run that goes on."""
    node = make_node(sandbox__grace="100ms")
    node.cli("push", image_tar)
    faults.put_job(node, "idle", shell("echo secret; sleep 60"))
    node.idle = trigger(node, "idle")

    def running():
        """the run goes on"""
        return node.run(node.idle)["state"] == "running" and faults.sandbox_pids(node)
    node.init = wait_for(running)[0]
    node.agent = node.agent_pid()
    return node


def tries(node, how, attempts):
    """{(what, argument): outcome} of attempts by a process with the agent's rights."""
    status = proc_status(node.agent)
    uid, gid = status["Uid"].split()[0], status["Gid"].split()[0]
    words = [str(w) for a in attempts for w in a]
    p = subprocess.run([DRIVER, uid, gid, how, *words], capture_output=True, text=True,
                       timeout=60, check=True)
    out = {}
    for line in p.stdout.splitlines():
        what, argument, outcome = line.split(" ")
        out[what, argument] = outcome
    assert len(out) == len(attempts), p.stderr
    return out


def assert_refused(outcomes, allowed=("EACCES", "EPERM")):
    wrong = {k: v for k, v in outcomes.items() if v not in allowed}
    assert not wrong, wrong


def test_its_status(scene):
    for task in pathlib.Path(f"/proc/{scene.agent}/task").iterdir():
        status = proc_status(f"{scene.agent}/task/{task.name}")
        for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[caps], 16) == 0, (task.name, caps, status[caps])
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert len(set(status["Uid"].split())) == 1 and status["Uid"].split()[0] != "0"
        assert len(set(status["Gid"].split())) == 1 and status["Gid"].split()[0] != "0"
        assert status["Groups"].split() == [status["Gid"].split()[0]]


def test_what_it_holds(scene):
    """Its descriptors: nothing that leads out. No path to layers, slots or groups; nothing under
    runs/ that it could write."""
    for fd in pathlib.Path(f"/proc/{scene.agent}/fd").iterdir():
        target = os.readlink(fd)
        info = pathlib.Path(f"/proc/{scene.agent}/fdinfo/{fd.name}").read_text()
        writable = int(re.search(r"flags:\s*(\d+)", info)[1], 8) & (os.O_WRONLY | os.O_RDWR)
        assert not target.startswith((f"{scene.data}/layers", f"{scene.data}/slots")), target
        assert not re.match(r"(mnt|user|net|pid):", target), target
        if target.startswith((f"{scene.data}/runs", "/sys/fs/cgroup", "/proc")):
            assert not writable, (target, info)


def test_the_launchers_sockets_have_no_name(scene):
    names = {}
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        names[fields[6]] = fields[7] if len(fields) > 7 else None
    seen = 0
    for fd in pathlib.Path(f"/proc/{scene.process.pid}/fd").iterdir():
        found = re.match(r"socket:\[(\d+)\]", os.readlink(fd))
        if found and found[1] in names:
            seen += 1
            assert names[found[1]] is None, names[found[1]]
    assert seen >= 2  # the agent's and a spawner's


def files_out_of_reach(node):
    layer = next((node.data / "layers").iterdir())
    run = node.data / "runs" / f"{node.idle}.1"
    box = pathlib.Path(f"/proc/{node.init}")
    job = faults.children(node.init)[0]
    out = [("list", node.data / "layers"), ("list", layer), ("read", layer / "bin/busybox"),
           ("list", node.data / "slots"), ("read", run / "sandbox"),
           ("create", run / "forged"), ("create", node.data / "runs" / "forged"),
           ("create", node.data / "forged"), ("remove", run / "stdout"), ("chmod", run),
           ("list", box / "root/"), ("list", box / "fd"), ("read", box / "mem"),
           ("read", box / "environ"), ("list", f"/proc/{job}/root/"),
           ("list", f"/proc/{job}/cwd/"), ("read", f"/proc/{job}/mem"),
           ("list", f"/proc/{node.process.pid}/root/"),
           ("list", f"/proc/{node.process.pid}/fd"), ("read", f"/proc/{node.process.pid}/mem")]
    out += [("write", run / name) for name in
            ("stdout", "stderr", "stderr.tail", "index", "exit", "usage", "sandbox")]
    out += [("list", f"/proc/{node.process.pid}/ns/mnt"), ("list", box / "ns/user")]
    for group in faults.groups_left(node):
        for top, _, files in os.walk(group):
            out += [("write", f"{top}/{f}") for f in files
                    if f in ("cgroup.procs", "tasks", "memory.limit_in_bytes", "cpu.cfs_quota_us",
                             "pids.max", "freezer.state", "memory.max", "cpu.max",
                             "cgroup.subtree_control", "notify_on_release")]
            out.append(("create", f"{top}/forged"))
    return out


@pytest.mark.parametrize("how", ["free", "confined"])
def test_it_reaches_no_other_runs_files_and_no_cgroup(scene, how):
    attempts = files_out_of_reach(scene)
    assert sum(1 for _, path in attempts if str(path).endswith("/cgroup.procs")) >= 2
    assert_refused(tries(scene, how, attempts))
    # What it is for, it can: the attempts above were refused for the right reason.
    can = [("read", scene.data / "runs" / f"{scene.idle}.1" / "stdout"),
           ("list", scene.data / "runs"), ("list", scene.data / "spool"),
           ("create", scene.data / "spool" / "mine")]
    assert set(tries(scene, how, can).values()) == {"done"}
    assert scene.run(scene.idle)["state"] == "running"


def test_its_user_can_do_nothing_to_other_processes(scene):
    job = faults.children(scene.init)[0]
    attempts = [(what, pid) for pid in (scene.process.pid, scene.init, job, 1)
                for what in ("kill", "ptrace", "process_vm_readv", "prlimit", "setns")]
    attempts += [("setuid", 0), ("setgroups", 0), ("mount", "/tmp"), ("umount", "/proc"),
                 ("open_tree", "/"), ("chroot", "/"), ("unshare", 0x20000), ("socket", 17)]
    assert_refused(tries(scene, "free", attempts))
    assert scene.run(scene.idle)["state"] == "running"


def test_its_filter_kills_what_only_an_intruder_does(scene):
    attempts = [("mount", "/tmp"), ("umount", "/proc"), ("open_tree", "/"), ("unshare", 0x20000),
                ("unshare", 0x10000000), ("setns", 1), ("chroot", "/"), ("ptrace", scene.init),
                ("process_vm_readv", scene.init), ("setuid", 0), ("setgroups", 0), ("bpf", 0),
                ("kexec", 0), ("module", 0), ("io_uring", 0), ("perf", 0), ("exec", "/bin/sh")]
    assert_refused(tries(scene, "confined", attempts), ("killed",))


def test_its_filter_refuses_the_rest(scene):
    attempts = [("clone", 0x10000000), ("fork", 0), ("kill", scene.init), ("kill", 0),
                ("prlimit", scene.init), ("mmap_exec", 0), ("socket", 17), ("socket", 16)]
    assert_refused(tries(scene, "confined", attempts), ("EPERM",))
    assert tries(scene, "confined", [("clone3", 0)]) == {("clone3", "0"): "ENOSYS"}
