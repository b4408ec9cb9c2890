"""The sandbox alone: a launcher whose agent is the test (tests/lib/sandbox_client.py). Every
line of the checklist and the abuse table that belongs to the sandbox."""
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import time

import pytest

import sandbox_client as sc
from sandbox_client import Launcher, busybox_layer
from conftest import AGENT

BUILD = pathlib.Path(AGENT).resolve().parent
DRIVER = BUILD / "sandbox_driver"
PROBES = BUILD / "probes"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the launcher needs root")


def fill(root):
    busybox_layer(root)
    for probe in PROBES.iterdir():
        shutil.copy(probe, root / "bin" / probe.name)


@pytest.fixture(scope="module", params=["prepared", "built"])
def box(request):
    """Every test with a launcher that keeps sandboxes ready, and with one that builds each when its
    run comes."""
    b = Launcher(DRIVER, **({} if request.param == "prepared" else {"sandbox__prepared": "none"}))
    b.prepares = request.param == "prepared"
    b.image = [b.layer(fill)]
    yield b
    b.close()


@pytest.fixture
def fresh():
    """A launcher for this test alone: it will be killed."""
    made = []

    def make(**settings):
        b = Launcher(DRIVER, **settings)
        made.append(b)
        b.image = [b.layer(fill)]
        return b
    yield make
    for b in made:
        b.close()


def run(box, *argv, **spec):
    return box.execute(box.image, list(argv), **spec)


def sh(box, script, **spec):
    return run(box, "sh", "-c", script, **spec)


def prepared_inits(box):
    """The first processes of sandboxes that wait for a run: children of the launcher whose own
    child has not been given a program yet."""
    def children(pid):
        try:
            return [int(x) for x in
                    pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def waits(pid):
        try:
            kids = children(pid)
            return len(kids) == 1 and os.readlink(f"/proc/{kids[0]}/exe") == os.readlink(
                f"/proc/{pid}/exe") and b"NSpid:" in pathlib.Path(
                f"/proc/{kids[0]}/status").read_bytes()
        except OSError:
            return False
    return [p for p in children(box.process.pid) if waits(p)]


def warm(box, argv, **spec):
    """A run in a sandbox that was there before it: tried until one was ready in time."""
    for _ in range(50):
        time.sleep(0.1)
        run_id = box.run(box.image, argv, **spec)
        kind = box.wait_started(run_id)["kind"]
        end = box.wait_ended(run_id)
        if kind == 2:
            return end, box.output(run_id), box.log_of(run_id)
    raise AssertionError("no start was warm")


# ---- what the sandbox shows and refuses

@pytest.mark.parametrize("user", ["", "app"])
@pytest.mark.parametrize("probe, least", [("probe_calls", 100), ("probe_view", 119)])
def test_probes(box, probe, least, user):
    if box.prepares:
        run(box, "true", user=user, hostname="another-host", env=["SECRET=of-another-run"])
        end, out, log = warm(box, [probe], user=user, hostname="probe-host")
    else:
        end, out, log = run(box, probe, user=user, hostname="probe-host")
    lines = out.decode(errors="replace").splitlines()
    assert end["reason"] == "exit" and end["exit_code"] == 0, (end, log)
    failed = [x for x in lines if x.startswith("FAIL")]
    assert not failed, failed
    good = sum(x.startswith("ok ") for x in lines)
    assert good >= least
    print(f"{probe} as '{user}': {good} checks")


def test_ids_differ_between_live_sandboxes(box):
    """R30: two live jobs have no id in common."""
    a = box.run(box.image, ["sleep", "30"])
    b = box.run(box.image, ["sleep", "30"])
    maps = []
    for r in (a, b):
        pid = box.wait_started(r)["pid"]
        job = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        maps.append(pathlib.Path(f"/proc/{job}/uid_map").read_text().split())
        assert pathlib.Path(f"/proc/{job}/status").read_text().count("CapEff:\t0000000000000000")
        init = dict(x.split(":\t", 1) for x in pathlib.Path(f"/proc/{pid}/status").read_text()
                    .splitlines() if ":\t" in x)
        assert init["CapPrm"] == f"{1 << 5:016x}"  # CAP_KILL, and that only inside
        assert init["Seccomp"] == "2" and init["NoNewPrivs"] == "1"
        uid = int(init["Uid"].split()[0])
        assert not int(maps[-1][1]) <= uid < int(maps[-1][1]) + 65536
    assert maps[0] != maps[1]
    for r in (a, b):
        box.send(sc.encode(sc.STOP, r, 1))
        box.wait_ended(r)


@pytest.fixture
def prepares(box):
    if not box.prepares:
        pytest.skip("this launcher builds each sandbox when its run comes")
    return box


def test_a_prepared_sandbox_is_the_runs_own(prepares):
    """What a run says reaches a sandbox that was built before: name, payload, limits, arguments."""
    box = prepares
    script = ("hostname; cat /etc/hostname; grep -c -w \"$(hostname)\" /etc/hosts; cat; "
              "wc -c < /run/agent/payload; ulimit -n; echo $WORD $HOSTNAME")
    sh(box, "true", hostname="a-long-name-before")
    for n, payload in ((3, b"abc\n"), (7, bytes(70000)), (1, None)):
        run_id = None
        for _ in range(50):
            time.sleep(0.1)
            run_id = sc.new_ulid()
            box.run(box.image, ["sh", "-c", script], run=run_id, stdin=payload,
                    hostname=f"h{n}", nofile=100 + n, env=[f"WORD=w{n}"])
            kind = box.wait_started(run_id)["kind"]
            end = box.wait_ended(run_id)
            assert end["exit_code"] == 0, end
            if kind == 2:
                break
        assert kind == 2
        size = len(payload or b"")
        want = f"h{n}\nh{n}\n2\n".encode() + (payload or b"") + \
            f"{size}\n{100 + n}\nw{n} h{n}\n".encode()
        assert box.output(run_id) == want


def test_a_large_payload_has_its_sandbox_built(box):
    data = os.urandom(300000)
    for _ in range(3):
        time.sleep(0.1)
        run_id = box.run(box.image, ["sh", "-c", "cat; cat /run/agent/payload"], stdin=data)
        assert box.wait_started(run_id)["kind"] != 2
        box.wait_ended(run_id)
        assert box.output(run_id) == data + data


def test_a_prepared_sandbox_knows_no_run(prepares):
    """No word of an earlier run is in its memory, and it holds no file of one."""
    box = prepares
    word = "word-" + os.urandom(8).hex()
    for _ in range(4):
        sh(box, f"echo {word} > /tmp/x", env=[f"SECRET={word}"], hostname="told",
           stdin=word.encode())
    deadline = time.monotonic() + 10
    while not prepared_inits(box):
        assert time.monotonic() < deadline, "nothing is prepared"
        time.sleep(0.05)
    time.sleep(0.3)
    looked = 0
    for pid in prepared_inits(box):
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                span, mode = line.split()[:2]
                if "w" not in mode:
                    continue
                begin, end = (int(x, 16) for x in span.split("-"))
                mem.seek(begin)
                assert word.encode() not in mem.read(end - begin), line
                looked += end - begin
    assert looked > 0


def test_prepared_sandboxes_follow_their_launcher(fresh):
    """kill -9 of the launcher: what waited for a run is gone, and nothing is left of it."""
    box = fresh()
    runs = [box.run(box.image, ["sleep", "0.3"]) for _ in range(3)]
    for r in runs:
        box.wait_ended(r)
    deadline = time.monotonic() + 10
    while len(prepared_inits(box)) < 3:
        assert time.monotonic() < deadline, "nothing is prepared"
        time.sleep(0.05)
    waiting = prepared_inits(box)
    box.process.kill()
    box.process.wait()
    while any(pathlib.Path(f"/proc/{p}").exists() for p in waiting):
        assert time.monotonic() < deadline + 10, "a prepared sandbox outlived its launcher"
        time.sleep(0.02)
    box.start()
    end, out, _ = box.execute(box.image, ["echo", "again"])
    assert out == b"again\n"
    while [p.name for p in (box.data / "runs").iterdir()
           if p.name.startswith(".spare-") and f"-{box.process.pid}-" not in p.name]:
        assert time.monotonic() < deadline + 20, "spare directories of a dead launcher are left"
        time.sleep(0.05)


def test_a_layer_in_a_prepared_sandbox_can_go(prepares):
    box = prepares
    layer = box.layer(fill)
    box.execute([layer], ["true"])
    time.sleep(0.3)
    box.send(sc.encode(sc.REMOVE_LAYER, digest=layer))
    e = box.wait("layer_removed")
    assert e["rc"] == 0, e
    assert not (box.data / "layers" / layer.hex()).exists()


def test_another_kind_takes_the_slots(prepares):
    """All slots hold sandboxes of one kind; runs of another kind get theirs all the same."""
    box = prepares
    slots = box.hello["numbers"][0]
    for user in ("", "app", "4242"):
        runs = [box.run(box.image, ["id", "-u"], user=user) for _ in range(slots)]
        for r in runs:
            assert box.wait_ended(r)["exit_code"] == 0
            assert box.output(r) == {"": b"0\n", "app": b"1000\n", "4242": b"4242\n"}[user]
        time.sleep(0.2)


def test_files_of_another_run_are_not_there(box):
    sh(box, "echo secret > /tmp/x; echo secret > /root/x; echo secret > /dev/shm/x; sleep 0.1")
    end, out, _ = sh(box, "cat /tmp/x /root/x /dev/shm/x; ls -A /tmp /dev/shm | wc -l")
    assert b"secret" not in out


# ---- how runs end

@pytest.mark.parametrize("script, reason, code, sig", [
    ("exit 0", "exit", 0, 0), ("exit 3", "exit", 3, 0), ("kill -9 $$", "signal", 137, 9),
    ("kill -SEGV $$", "signal", 139, 11)])
def test_ends(box, script, reason, code, sig):
    end, _, _ = sh(box, script)
    assert (end["reason"], end["exit_code"], end["signal"]) == (reason, code, sig)


@pytest.mark.parametrize("argv, code, text", [
    (["no-such-program"], 127, "no-such-program"), (["/bin/nope"], 127, "/bin/nope"),
    (["/etc/passwd"], 126, "Permission denied"), (["/etc"], 126, "Permission denied")])
def test_programs_that_do_not_run(box, argv, code, text):
    end, _, _ = run(box, *argv)
    assert end["reason"] == "setup" and end["exit_code"] == code and text in end["text"]
    assert not [e for e in box.events if (e["type"], e["run"]) == ("started", end["run"])]


def test_users(box):
    def ids(user):
        end, out, _ = sh(box, "id -u; id -g; id -G; echo $HOME", user=user)
        return end["text"] or out.decode().split("\n")[:4]
    assert ids("") == ["0", "0", "0", "/root"]
    assert ids("app") == ["1000", "1001", "1001 1002", "/home/app"]
    assert ids("1000") == ["1000", "1001", "1001", "/home/app"]
    assert ids("4242") == ["4242", "0", "0", "/"]
    assert ids("app:extra") == ["1000", "1002", "1002", "/home/app"]
    assert ids("7:8") == ["7", "8", "8", "/"]
    assert "unable to find user 'ghost'" in ids("ghost")
    assert "unable to find group 'ghosts'" in ids("app:ghosts")
    assert "unable to find user '65536'" in ids("65536")


@pytest.mark.parametrize("what", ["fifo", "device", "link", "huge"])
def test_hostile_passwd(box, what):
    """R22: an error, at once."""
    def hostile(root):
        fill(root)
        passwd = root / "etc/passwd"
        passwd.unlink()
        if what == "fifo":
            os.mkfifo(passwd)
        elif what == "device":
            os.mknod(passwd, 0o666 | 0o020000, os.makedev(1, 5))
        elif what == "link":
            passwd.symlink_to("/proc/self/environ")
        else:
            with open(passwd, "wb") as f:
                f.truncate(1 << 30)
    before = time.monotonic()
    end, _, _ = box.execute([box.layer(hostile)], ["true"], user="app")
    assert end["reason"] == "setup" and end["exit_code"] == 125, end
    assert time.monotonic() - before < 2


def test_working_directory(box):
    def where(path):
        end, out, _ = sh(box, "pwd", workdir=path)
        return out.decode().strip() or end["text"]
    assert where("") == "/"
    assert where("/usr/bin") == "/usr/bin"
    assert where("/made/for/me") == "/made/for/me"
    assert where("/made/../tmp") == "/tmp"


@pytest.mark.parametrize("path", ["/proc/self/fd/7", "/proc/1/cwd/..", "/proc/self/cwd",
                                  "/proc/1/root", "/proc/self/fd/3"])
def test_working_directory_tricks(box, path):
    """R24: CVE-2024-21626."""
    end, out, _ = sh(box, "pwd; ls /", workdir=path)
    assert end["reason"] == "setup" and end["exit_code"] == 125, (end, out)


@pytest.mark.parametrize("argv", [["/proc/self/exe"], ["/proc/1/exe"], ["/evil"], ["/link"]])
def test_agent_binary_is_out_of_reach(box, argv):
    """R25: CVE-2019-5736."""
    def evil(root):
        fill(root)
        (root / "evil").write_text("#!/proc/self/exe\n")
        (root / "evil").chmod(0o755)
        (root / "link").symlink_to("/proc/self/exe")
    end, out, log = box.execute([box.layer(evil)], argv)
    assert end["reason"] in ("setup", "exit") and end["exit_code"] in (1, 2, 126, 127), end
    assert b"usage: sandbox_driver" not in out + log


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "tmp", "etc", "run", "etc/hosts",
                                  "etc/resolv.conf", "etc/hostname", "etc/mtab"])
def test_hostile_mount_points(box, name):
    """R23: what we need at these places is ours, whatever the image has there."""
    def hostile(root):
        fill(root)
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        path.symlink_to(box.dir)
    before = sorted(p.name for p in box.dir.iterdir())
    end, out, log = box.execute([box.layer(hostile)], ["/bin/busybox", "sh", "-c",
                                "echo x > /tmp/x && cat /etc/hostname && test -c /dev/null && "
                                "test -d /proc/self && test -d /sys/class"], user="0")
    assert end["reason"] == "exit" and end["exit_code"] == 0, (end, log)
    assert b"sandbox" in out
    assert sorted(p.name for p in box.dir.iterdir()) == before


# ---- limits

def test_forks(box):
    """R1"""
    end, out, _ = run(box, "probe_abuse", "fork", "500", pids=100)
    made = int(out.split()[1])
    assert 90 <= made <= 100 and b"unavailable" in out, out


def test_memory(box):
    """R2"""
    end, out, _ = run(box, "probe_abuse", "mem", "400", memory_bytes=128 << 20)
    assert (end["reason"], end["exit_code"]) == ("oom", 137), end
    assert b"all" not in out
    assert end["end"][14] > end["base"][14]  # oom_kills


def test_memory_of_a_child_ends_the_whole_job(box):
    before = time.monotonic()
    end, out, _ = run(box, "probe_abuse", "child-mem", "400", memory_bytes=128 << 20)
    assert (end["reason"], end["exit_code"]) == ("oom", 137), end
    assert b"went on" not in out and time.monotonic() - before < 15


def test_memory_peak_is_the_runs_own(box):
    run(box, "probe_abuse", "mem", "100", memory_bytes=256 << 20)
    for _ in range(box.hello["numbers"][0]):
        end, _, _ = run(box, "true", memory_bytes=256 << 20)
        assert end["end"][11] < 60 << 20, end["end"]


def test_shm(box):
    """R3, R4"""
    _, out, _ = run(box, "probe_abuse", "fill", "/dev/shm", "200", shm_bytes=64 << 20)
    assert out == b"fill 64 No space left on device\n"
    _, out, _ = run(box, "probe_abuse", "inode", "/dev/shm", "200000")
    assert b"No space left" in out and int(out.split()[1]) < 20000


def test_disk(box):
    """R5, R6: bytes and inodes of the writable layer"""
    for where in ("/tmp", "/root", "/usr/bin"):
        _, out, _ = run(box, "probe_abuse", "fill", where, "200", disk_bytes=32 << 20)
        assert b"No space left" in out and 25 <= int(out.split()[1]) <= 32, out
        _, out, _ = run(box, "probe_abuse", "inode", where, "200000", disk_inodes=1000)
        assert b"No space left" in out and int(out.split()[1]) < 1000, out


def test_descriptors(box):
    """R8"""
    _, out, _ = run(box, "probe_abuse", "fd", "30000", nofile=1024)
    assert out == b"descriptors 1021 Too many open files\n"


def test_cpu(box):
    """R11: four spinning processes get what one run may have."""
    before = time.monotonic()
    end, _, _ = run(box, "probe_abuse", "spin", "3", cpus_milli=500)
    took = time.monotonic() - before
    used = (end["end"][1] - end["base"][1]) / 1e6
    assert used < took * 0.5 * 1.4 + 0.2, (used, took)
    # Throttled, unless the machine had not even that much for it.
    assert end["end"][4] > end["base"][4] or used < took * 0.5 * 0.9, (used, took)


# ---- outputs

def test_output_is_whole(box):
    """R7, R14: raw bytes, as they were written."""
    _, out, log = sh(box, "printf 'a\\000b\\033[31m\\377'; head -c 300000 /dev/zero; echo err >&2")
    assert out == b"a\0b\033[31m\xff" + bytes(300000) and log == b"err\n"
    end, out, _ = run(box, "probe_abuse", "flood", "50", output_bytes=64 << 20)
    assert len(out) == 50 << 20 and end["stdout_bytes"] == 50 << 20
    piece = bytes(97 + i % 26 for i in range(1 << 20))
    assert hashlib.sha256(out).digest() == hashlib.sha256(piece * 50).digest()


def test_output_limit(box):
    """R7"""
    end, out, _ = run(box, "probe_abuse", "flood", "50", output_bytes=1 << 20)
    assert end["reason"] == "output" and len(out) == 1 << 20 and end["stdout_truncated"]
    assert "1048576" in end["text"]
    end, out, _ = run(box, "probe_abuse", "flood", "50", output_bytes=1 << 20, output_truncate=1)
    assert (end["reason"], end["exit_code"]) == ("exit", 0) and len(out) == 1 << 20
    assert end["stdout_bytes"] == 50 << 20 and end["stdout_kept"] == 1 << 20


def test_log_limit(box):
    """R7: the first and the last half"""
    end, _, log = run(box, "probe_abuse", "flood-log", "20", log_bytes=1 << 20)
    tail = (box.run_dir(end["run"]) / "stderr.tail").read_bytes()
    assert len(log) == 1 << 19 and len(tail) == 32 + (1 << 19)
    assert end["stderr_bytes"] == 20 << 20 and end["stderr_truncated"]
    total, ring = struct.unpack_from("<Q", tail, 24)[0], tail[32:]
    assert total == 20 << 20
    at = (total - (1 << 19)) % (1 << 19)
    piece = bytes(97 + i % 26 for i in range(1 << 20))
    assert ring[at:] + ring[:at] == piece[1 << 19:]


def test_output_costs_the_job_no_memory(box):
    end, _, _ = run(box, "probe_abuse", "flood", "300", output_bytes=400 << 20,
                    memory_bytes=64 << 20)
    assert (end["reason"], end["stdout_kept"]) == ("exit", 300 << 20), end


def test_payload(box):
    data = os.urandom(100000)
    run_id = sc.new_ulid()
    end, out, log = box.execute(
        box.image, ["sh", "-c", "cat; cat /run/agent/payload; ls -l /proc/self/fd/0 >&2; "
                    "grep -c payload /proc/self/mountinfo >&2; echo x >> /run/agent/payload || "
                    "echo read-only >&2"], run=run_id, stdin=data, user="app")
    assert out == data + data, end
    assert b"/run/agent/payload" in log and b"\n0\n" in log and b"read-only" in log
    assert (box.data / "spool" / sc.ulid_text(run_id)).read_bytes() == data


def test_payload_of_many_attempts(box):
    run_id = sc.new_ulid()
    for attempt in range(1, 5):
        box.run(box.image, ["cat"], run=run_id, attempt=attempt, stdin=b"the same")
        assert box.wait_ended(run_id)["exit_code"] == 0
        assert box.output(run_id, attempt) == b"the same"


@pytest.mark.parametrize("what", ["link", "fifo", "root's", "directory", "nothing"])
def test_payload_that_is_none(box, what):
    """The agent names a file of its own, or gets nothing started."""
    run_id = sc.new_ulid()
    path = box.data / "spool" / sc.ulid_text(run_id)
    if what == "link":
        path.symlink_to("/etc/shadow")
        os.lchown(path, 65534, 65534)
    elif what == "fifo":
        os.mkfifo(path)
        os.chown(path, 65534, 65534)
    elif what == "root's":
        path.write_text("secret")
    elif what == "directory":
        path.mkdir()
    r = box.run(box.image, ["cat"], run=run_id, payload=True)
    assert "payload" in box.wait("failed", r)["text"]
    assert not box.run_dir(r).exists()


def test_no_payload(box):
    _, out, _ = sh(box, "wc -c < /run/agent/payload; wc -c; ls -l /proc/self/fd/0")
    assert out.startswith(b"0\n0\n") and b"/dev/null" in out


# ---- ending runs

def test_orphans(box):
    """R9: the job's end is the end of everything in it; nobody waits for who holds stdout."""
    before = time.monotonic()
    end, out, _ = run(box, "probe_abuse", "orphan")
    assert out == b"orphans\n" and end["exit_code"] == 0 and time.monotonic() - before < 5


def test_stop(box):
    """R15"""
    r = box.run(box.image, ["sh", "-c", "trap 'echo got; exit 3' USR1; echo up; sleep 30 & wait"],
                stop_signal=10)
    box.wait_started(r)
    while box.output(r) != b"up\n":
        time.sleep(0.01)
    box.send(sc.encode(sc.STOP, r, 1))
    end = box.wait_ended(r)
    assert (end["reason"], end["exit_code"]) == ("stopped", 3) and box.output(r) == b"up\ngot\n"
    r = box.run(box.image, ["probe_abuse", "stubborn"], grace_ms=300)
    box.wait_started(r)
    while box.output(r) != b"stubborn\n":
        time.sleep(0.01)
    before = time.monotonic()
    box.send(sc.encode(sc.STOP, r, 1))
    end = box.wait_ended(r)
    assert (end["reason"], end["signal"]) == ("stopped", 9)
    assert 0.25 <= time.monotonic() - before < 5


def test_stop_at_once(box):
    """A STOP right behind its RUN is not lost."""
    r = box.run(box.image, ["sleep", "60"])
    box.send(sc.encode(sc.STOP, r, 1))
    assert box.wait_ended(r, 10)["reason"] == "stopped"


def test_signal(box):
    script = "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"
    r = box.run(box.image, ["sh", "-c", script])
    box.wait_started(r)
    while box.output(r) != b"up\n":
        time.sleep(0.01)
    box.send(sc.encode(sc.SIGNAL, r, 1, value=1))
    while b"hup" not in box.output(r):
        time.sleep(0.01)
    box.send(sc.encode(sc.SIGNAL, r, 1, value=9))
    end = box.wait_ended(r)
    assert (end["reason"], end["signal"]) == ("signal", 9)


@pytest.mark.parametrize("what", ["stubborn", "suspend"])
def test_timeout(box, what):
    """R16"""
    before = time.monotonic()
    end, _, _ = run(box, "probe_abuse", what, timeout_ms=400, grace_ms=300)
    assert (end["reason"], end["exit_code"]) == ("timeout", 124), end
    assert 0.4 <= time.monotonic() - before < 5


def test_ipc(box):
    """R17, R20: nothing is left, nothing is shared"""
    for _ in range(box.hello["numbers"][0] + 1):
        _, out, _ = run(box, "probe_abuse", "ipc")
        assert out == b"found 0 0 0\nabstract 0\n", out


def test_odd_names(box):
    """R13"""
    _, out, _ = run(box, "probe_abuse", "names")
    assert out == b"names 6\n"


def test_host_sockets_are_out_of_reach(box):
    """R17"""
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as abstract:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        name = f"\0agent-test-{os.getpid()}"
        abstract.bind(name)
        _, out, _ = sh(box, f"nc -w 2 127.0.0.1 {listening.getsockname()[1]} && echo reached; "
                            f"grep -c agent-test /proc/net/unix")
        assert b"reached" not in out and out.endswith(b"0\n")


def test_host_network_is_refused(box):
    r = box.run(box.image, ["true"], network=1)
    assert "allow_host_network" in box.wait("failed", r)["text"]


def test_host_network_where_it_is_allowed(fresh, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    box = fresh(sandbox__allow_host_network="yes", auth__tokens_file=tokens)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        script = f"nc -w 5 127.0.0.1 {listening.getsockname()[1]} </dev/null && echo reached"
        r = box.run(box.image, ["sh", "-c", script], network=1)
        connection, _ = listening.accept()
        connection.close()
        assert box.wait_ended(r)["exit_code"] == 0 and box.output(r) == b"reached\n"
        end, out, _ = sh(box, script)
        assert end["exit_code"] != 0 and out == b""  # the next one is alone again


# ---- slots

def test_all_slots(box):
    n = box.hello["numbers"][0]
    runs = [box.run(box.image, ["sleep", "60"]) for _ in range(n)]
    slots = {box.wait_started(r)["slot"] for r in runs}
    assert len(slots) == n
    more = box.run(box.image, ["true"])
    failed = box.wait("failed", more)
    assert failed["rc"] == -11 and "no slot" in failed["text"]
    assert not box.run_dir(more).exists()
    for r in runs:
        box.send(sc.encode(sc.STOP, r, 1))
    assert {box.wait_ended(r)["reason"] for r in runs} == {"stopped"}


def test_many_runs(box):
    """Slots are used again, and nothing adds up."""
    n = 200
    slots = box.hello["numbers"][0]
    for r in [box.run(box.image, ["sleep", "0.3"]) for _ in range(slots)]:
        box.wait_ended(r)  # all slots are made
    before = len(os.listdir(f"/proc/{box.process.pid}/fd"))
    waiting = []
    for i in range(n):
        waiting.append((i, box.run(box.image, ["sh", "-c", f"echo {i}"])))
        if len(waiting) >= 4:
            j, r = waiting.pop(0)
            assert box.wait_ended(r)["exit_code"] == 0
            assert box.output(r) == f"{j}\n".encode()
    for j, r in waiting:
        assert box.wait_ended(r)["exit_code"] == 0 and box.output(r) == f"{j}\n".encode()
    for e in [e for e in box.events if e["type"] == "started"]:
        for fd in e["fds"]:
            os.close(fd)
    spare = 16 * 6  # directories made ahead, with their files
    ready = 4 * slots  # a sandbox's pidfd, socket, directory, host name
    assert len(os.listdir(f"/proc/{box.process.pid}/fd")) <= before + spare + ready + 2


def test_same_run_twice(box):
    end, _, _ = run(box, "true")
    again = box.run(box.image, ["true"], run=end["run"])
    assert "File exists" in box.wait("failed", again)["text"]
    second = box.run(box.image, ["true"], run=end["run"], attempt=2)
    assert box.wait_ended(second)["exit_code"] == 0


def test_many_layers(box):
    """127 layers: overlay's options stay within a page."""
    def one(i):
        def write(root):
            (root / f"file{i}").write_text(str(i))
        return write
    layers = box.image + [box.layer(one(i)) for i in range(126)]
    end, out, _ = box.execute(layers, ["sh", "-c", "ls /file* | wc -l"])
    assert out == b"126\n", end
    end, out, _ = box.execute(layers[:60], ["sh", "-c", "ls /file* | wc -l"])
    assert out == b"59\n", end


def test_layer_that_is_not_there(box):
    r = box.run([bytes(32)], ["true"])
    failed = box.wait("failed", r)
    assert failed["rc"] == -116 and not box.run_dir(r).exists()


# ---- messages

@pytest.mark.parametrize("message", [
    b"", b"x", bytes(sc.MSG_SIZE), sc.encode(sc.PING) + b"x", sc.encode(sc.PING)[:-1],
    sc.encode(99), sc.encode(sc.HELLO), sc.encode(sc.STARTED), sc.encode(sc.PING, attempt=1),
    sc.encode(sc.STOP), sc.encode(sc.STOP, b"\1" * 16, 0), sc.encode(sc.STOP, b"\1" * 16, 10000),
    sc.encode(sc.RUN, b"\1" * 16, 1), sc.encode(sc.UNPACK, digest=b"\2" * 32),
    sc.encode(sc.PING, value=7), sc.encode(sc.PING)[:1500] + b"\1" * 36], ids=range(16))
def test_broken_messages_end_the_connection(fresh, message):
    """And with it the agent process, which is started again."""
    box = fresh(node__slots=1)
    old = box.agent_pid
    if message:
        box.send(message)
    else:
        box.sock.shutdown(socket.SHUT_WR)
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            box.receive(10)
    box.close_sock()
    box.connect()
    assert box.agent_pid != old and box.process.poll() is None


def test_broken_specs(box):
    good = sc.spec_blob(b"\1" * 16, 1, box.image, ["true"])

    def send(blob, seal=True, run=b"\1" * 16):
        fd = sc.sealed(blob) if seal else os.memfd_create("spec")
        if not seal:
            os.write(fd, blob)
        box.send(sc.encode(sc.RUN, run, 1), [fd])
        os.close(fd)
        return box.wait("failed", run)["text"]
    assert "sealed" in send(good, seal=False)
    assert "another run" in send(good, run=b"\2" * 16)
    assert "spec" in send(good[:-1])
    assert "spec" in send(good + b"x")
    assert "spec" in send(b"")
    assert "memory_bytes" in send(sc.spec_blob(b"\1" * 16, 1, box.image, ["true"], memory_bytes=1))
    assert "environment" in send(sc.spec_blob(b"\1" * 16, 1, box.image, ["true"], env=["novalue"]))
    assert "absolute" in send(sc.spec_blob(b"\1" * 16, 1, box.image, ["true"], workdir="x"))
    fd = os.open("/dev/null", os.O_RDONLY)
    box.send(sc.encode(sc.RUN, b"\1" * 16, 1), [fd])
    os.close(fd)
    assert "sealed" in box.wait("failed", b"\1" * 16)["text"]


# ---- kill -9 (R29)

def marker(box):
    """A run that writes a line every 50 ms and ends by itself after 3 s."""
    r = box.run(box.image, ["sh", "-c", "for i in $(seq 1 60); do echo $i; sleep 0.05; done; "
                            "echo done >&2; exit 5"])
    box.wait_started(r)
    return r


def check_marker(box, r, end):
    assert (end["reason"], end["exit_code"]) == ("exit", 5), end
    assert box.output(r) == b"".join(b"%d\n" % i for i in range(1, 61))
    assert box.log_of(r) == b"done\n"


def test_kill_the_agent(fresh):
    box = fresh()
    r = marker(box)
    old = box.agent_pid
    os.kill(old, signal.SIGKILL)
    box.close_sock()
    box.connect()
    assert box.agent_pid != old
    box.send(sc.encode(sc.ADOPT))
    started = box.wait_started(r)
    assert started["adopted"]
    box.wait("adopted")
    check_marker(box, r, box.wait_ended(r))


@pytest.mark.parametrize("both", [False, True])
def test_kill_the_launcher(fresh, both):
    box = fresh()
    r = marker(box)
    agent = box.agent_pid
    if both:
        os.kill(agent, signal.SIGKILL)
    box.kill()
    end = time.monotonic() + 5
    while pathlib.Path(f"/proc/{agent}").exists():
        assert time.monotonic() < end, "the agent process outlived its launcher"
        time.sleep(0.01)
    assert len(box.survivors()) >= 2  # init and the job go on, spawners do not
    box.start()
    box.send(sc.encode(sc.ADOPT))
    started = box.wait_started(r)
    assert started["adopted"]
    box.wait("adopted")
    other = box.run(box.image, ["sh", "-c", "echo other"])
    assert box.wait_ended(other)["exit_code"] == 0  # the adopted slot is not taken
    check_marker(box, r, box.wait_ended(r))
    again = box.run(box.image, ["true"])
    assert box.wait_ended(again)["exit_code"] == 0


def test_end_while_nobody_watches(fresh):
    box = fresh()
    r = marker(box)
    box.kill()
    while box.survivors():
        time.sleep(0.05)
    box.start()
    box.send(sc.encode(sc.ADOPT))
    end = box.wait_ended(r)
    check_marker(box, r, end)
    assert end["value"] == 1 and end["end"][1] > end["base"][1]  # the totals were still there
    box.wait("adopted")


def test_stop_after_adoption(fresh):
    box = fresh()
    r = box.run(box.image, ["sleep", "60"])
    box.wait_started(r)
    box.kill()
    box.start()
    box.send(sc.encode(sc.ADOPT))
    assert box.wait_started(r)["adopted"]
    box.send(sc.encode(sc.STOP, r, 1))
    assert box.wait_ended(r)["reason"] == "stopped"


def test_init_killed(fresh):
    box = fresh()
    r = box.run(box.image, ["sleep", "60"])
    pid = box.wait_started(r)["pid"]
    os.kill(pid, signal.SIGKILL)
    end = box.wait_ended(r)
    assert (end["reason"], end["exit_code"]) == ("lost", 137)


def test_drain(fresh):
    """SIGTERM: the agent process is asked to end, the sandbox goes on."""
    box = fresh()
    r = box.run(box.image, ["sleep", "60"])
    box.wait_started(r)
    box.kill(signal.SIGTERM)
    assert box.process.returncode == 0
    assert box.survivors()
    box.start()
    box.send(sc.encode(sc.ADOPT))
    assert box.wait_started(r)["adopted"]


def test_nothing_is_left(fresh):
    box = fresh()
    r = box.run(box.image, ["sleep", "60"])
    box.wait_started(r)
    box.send(sc.encode(sc.STOP, r, 1))
    box.wait_ended(r)
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    assert str(box.dir) not in mounts
    box.kill()
    end = time.monotonic() + 5
    while box.survivors():
        assert time.monotonic() < end, "spawners outlived their launcher"
        time.sleep(0.01)


# ---- layers and directories

def test_unpack(box):
    data = os.urandom(300000)
    digest = hashlib.sha256(data).digest()
    path = box.dir / "blob"
    path.write_bytes(data)

    def unpack(d):
        fd = os.open(path, os.O_RDONLY)
        box.send(sc.encode(sc.UNPACK, digest=d), [fd])
        os.close(fd)
    unpack(digest)
    unpack(digest)
    first, second = box.wait("unpacked"), box.wait("unpacked")
    assert first["rc"] == 0 and second["rc"] == 0, (first, second)
    assert first["numbers"][:2] == (300000, 2)
    layer = box.data / "layers" / digest.hex()
    assert (layer / "content").read_bytes() == data
    assert (layer / "content").stat().st_uid == sc.UID_BASE
    assert os.getxattr(layer / "opaque", "trusted.overlay.opaque") == b"y"
    unpack(b"\5" * 32)
    wrong = box.wait("unpacked")
    assert wrong["rc"] == -74 and "diff_id" in wrong["text"]
    assert not list((box.data / "layers").glob("tmp-*"))
    end, out, _ = box.execute(box.image + [digest], ["sh", "-c", "wc -c < /content"])
    assert out == b"300000\n"


def test_remove_layer(box):
    layer = box.layer(lambda root: (root / "x").write_text("1"))
    r = box.run(box.image + [layer], ["sleep", "60"])
    box.wait_started(r)
    box.send(sc.encode(sc.REMOVE_LAYER, digest=layer))
    assert box.wait("layer_removed")["rc"] == -16  # EBUSY
    box.send(sc.encode(sc.STOP, r, 1))
    box.wait_ended(r)
    box.send(sc.encode(sc.REMOVE_LAYER, digest=layer))
    assert box.wait("layer_removed")["rc"] == 0
    assert not (box.data / "layers" / layer.hex()).exists()
    assert not list((box.data / "layers").glob("rm-*"))


def test_a_removed_runs_directory_is_used_again_empty(box):
    """Files are made once and used by later runs: nothing of an earlier run is in them."""
    def told(script):
        run = box.run(box.image, ["sh", "-c", script])
        assert box.wait_ended(run)["exit_code"] == 0
        path = box.run_dir(run)
        inodes = {f.name: f.stat().st_ino for f in path.iterdir()}
        return run, path, inodes

    seen, again = {}, 0
    for i in range(40):
        run, path, inodes = told(f"echo out-{i}; echo err-{i} >&2")
        again += inodes["stdout"] in seen
        seen[inodes["stdout"]] = i
        assert (path / "stdout").read_bytes() == b"out-%d\n" % i
        assert (path / "stderr").read_bytes() == b"err-%d\n" % i
        assert len((path / "exit").read_bytes()) == 512
        box.send(sc.encode(sc.REMOVE_RUN, run=run, attempt=1))
        assert box.wait("run_removed")["rc"] == 0 and not path.exists()
    assert again > 0, "no directory was used again"


def test_a_file_that_is_read_is_not_used_again(box):
    """Whoever still reads a removed run's output sees that run's to the end, never another's."""
    readers = []
    for i in range(12):
        run = box.run(box.image, ["sh", "-c", f"echo {i} {'x' * 100}; echo log >&2"])
        assert box.wait_ended(run)["exit_code"] == 0
        readers.append((box.run_dir(run) / "stdout").open("rb"))
        box.send(sc.encode(sc.REMOVE_RUN, run=run, attempt=1))
        assert box.wait("run_removed")["rc"] == 0
    for i in range(24):
        sh(box, "echo another")
    for i, f in enumerate(readers):
        with f:
            assert f.read() == b"%d %s\n" % (i, b"x" * 100)


def test_remove_run(box):
    r = box.run(box.image, ["sleep", "60"])
    box.wait_started(r)
    box.send(sc.encode(sc.REMOVE_RUN, r, 1))
    assert box.wait("run_removed")["rc"] == -16
    box.send(sc.encode(sc.STOP, r, 1))
    box.wait_ended(r)
    box.send(sc.encode(sc.REMOVE_RUN, r, 1))
    assert box.wait("run_removed")["rc"] == 0 and not box.run_dir(r).exists()
    box.send(sc.encode(sc.REMOVE_RUN, r, 1))
    assert box.wait("run_removed")["rc"] == 0  # gone already


# ---- privilege of the processes and of the files

def test_the_agent_process_has_no_rights(box):
    status = pathlib.Path(f"/proc/{box.agent_pid}/status").read_text()
    for line in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{line}:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status and "Uid:\t65534\t65534\t65534\t65534" in status
    assert "Groups:\t65534 \n" in status
    fds = {os.readlink(f"/proc/{box.agent_pid}/fd/{n}").split(":")[0]
           for n in os.listdir(f"/proc/{box.agent_pid}/fd") if int(n) > 2}
    assert fds == {"socket"}


def test_owners(box):
    end, _, _ = run(box, "true")
    d = box.run_dir(end["run"])
    modes = {p.name: (p.stat().st_uid, p.stat().st_gid, oct(p.stat().st_mode & 0o7777))
             for p in [d, *d.iterdir()]}
    assert modes.pop(d.name) == (0, 65534, "0o2750")
    assert modes.pop("sandbox") == (0, 65534, "0o600")
    assert set(modes) == {"stdout", "stderr", "stderr.tail", "index", "exit", "usage"}
    assert set(modes.values()) == {(0, 65534, "0o640")}
    for name, mode in (("layers", "0o700"), ("slots", "0o700"), ("spool", "0o700")):
        assert oct((box.data / name).stat().st_mode & 0o7777) == mode
    assert (box.data / "layers").stat().st_uid == 0 and (box.data / "spool").stat().st_uid == 65534


def test_unknown_user(tmp_path):
    import subprocess
    p = subprocess.run([DRIVER, "launcher", tmp_path / "s", f"--node.data_dir={tmp_path}/d",
                        "--node.user=no-such-user"], capture_output=True, text=True, timeout=20)
    assert p.returncode == 1
    assert "no user 'no-such-user'" in p.stderr and "useradd" in p.stderr
