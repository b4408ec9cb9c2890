"""The client against a node that is none (fake_node.py): what it sends, prints and exits with."""
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest

from fake_node import FakeNode

AGENT = os.environ.get("AGENT", os.path.join(os.path.dirname(__file__), "../../build/agent"))


@pytest.fixture
def node():
    n = FakeNode()
    yield n
    n.close()


def agent(node, *args, stdin=subprocess.DEVNULL, env=None, **kw):
    e = {k: v for k, v in os.environ.items() if k not in ("AGENT_ADDR", "NO_COLOR")}
    if node is not None:
        e["AGENT_ADDR"] = node.addr
    e.update(env or {})
    if "input" not in kw:
        kw["stdin"] = stdin
    return subprocess.run([AGENT, *args], capture_output=True, timeout=60, env=e, **kw)


def text(p):
    return p.stdout.decode()


def play(*steps):
    """A script: each step is called with the run."""
    def script(run):
        for step in steps:
            step(run)
    return script


# ---- help and usage ----

COMMANDS = [line.split()[0] for line in subprocess.run(
    [AGENT, "help"], capture_output=True, check=True).stdout.decode().splitlines()
    if re.match(r"  [a-z]+ {2,}", line)]


def test_help_lists_commands():
    assert {"serve", "status", "submit", "jobs", "runs", "logs", "output", "inspect", "explain",
            "profile", "top", "cancel", "retry", "apply", "push", "images", "nodes", "doctor",
            "config", "completion", "version", "help"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command):
    p = agent(None, command, "--help")
    assert p.returncode == 0 and p.stderr == b""
    assert f"Usage: agent {command}" in text(p)
    assert "\nExample" in text(p) and re.search(r"\n  .*agent ", text(p))
    assert p.stdout == agent(None, "help", command).stdout
    assert max(len(line) for line in text(p).splitlines()) <= 100


@pytest.mark.parametrize("word,meant", [("stauts", "status"), ("submti", "submit"), ("ps", "runs"),
                                        ("run", "submit"), ("kill", "cancel"), ("insp", "inspect")])
def test_wrong_command_suggests(word, meant):
    p = agent(None, word)
    assert p.returncode == 2 and p.stdout == b""
    assert f"did you mean 'agent {meant}'?" in p.stderr.decode()


@pytest.mark.parametrize("args,said", [
    (["runs", "--lmit", "3"], "did you mean '--limit'?"),
    (["runs", "--limit"], "needs a value"),
    (["runs", "-z"], "no option '-z'"),
    (["runs", "extra"], "too much"),
    (["logs"], "missing"),
    (["logs", "--follow=1", "x"], "takes no value"),
    (["cancel", "--", "x"], "nothing behind '--'"),
    (["status", "-o", "yaml"], "table, json or name"),
    (["status", "--node", "host:99999"], "1 to 65535"),
    (["status", "--node", "ftp://a"], "a port is"),
    (["submit", "job", "--memory", "1G"], "is for images"),
    (["submit", "job", "--", "x"], "are for images"),
    (["submit", "a/b:1", "--cpus", "x"], "a number is wanted"),
    (["submit", "a/b:1", "--env", "x"], "KEY=VALUE"),
    (["submit", "A/b:1"], "lower-case"),
    (["submit", "x", "--wait", "--detach"], "exclude"),
    (["images", "frob"], "ls, rm or prune"),
    (["completion", "tcsh"], "bash, zsh and fish"),
    (["help", "stauts"], "did you mean 'status'?"),
])
def test_usage_errors(args, said):
    p = agent(None, *args)
    assert p.returncode == 2, p
    assert p.stdout == b""
    assert said in p.stderr.decode()
    assert p.stderr.count(b"\n") == 1


def test_version():
    assert re.fullmatch(r"agent \S+ \(\S+\)\n", text(agent(None, "--version")))
    assert set(json.loads(agent(None, "version", "-o", "json").stdout)) == {"version", "revision"}


def test_manual_pages_render():
    for option, words in (("--man", ["agent submit", "EXIT STATUS"]),
                          ("--man-conf", ["data_dir", "[sandbox]"])):
        page = agent(None, "help", option)
        assert page.returncode == 0
        p = subprocess.run(["man", "--warnings", "-l", "-"], input=page.stdout, capture_output=True,
                           env=dict(os.environ, MANWIDTH="100", LC_ALL="C.UTF-8"), check=True)
        assert p.stderr == b""
        for word in words:
            assert word in p.stdout.decode()


def test_completion_scripts(node):
    node.jobs["encrypt"] = {"name": "encrypt", "image": "a:1", "revision": 1}
    script = agent(None, "completion", "bash").stdout.decode()
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=True)

    def complete(*words):
        line = " ".join(f"'{w}'" for w in words)
        p = subprocess.run(
            ["bash", "-c", script + f"\nagent() {{ '{AGENT}' \"$@\"; }}\n"
             f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _agent; "
             "printf '%s\\n' \"${COMPREPLY[@]}\""],
            capture_output=True, check=True, env=dict(os.environ, AGENT_ADDR=node.addr))
        return p.stdout.decode().split()
    assert complete("agent", "sub") == ["submit"]
    assert "--wait" in complete("agent", "submit", "--")
    assert complete("agent", "submit", "enc") == ["encrypt"]
    assert complete("agent", "--node", node.addr, "completion", "f") == ["fish"]
    for shell in ("zsh", "fish"):
        out = agent(None, "completion", shell).stdout.decode()
        assert "idempotency-key" in out and "cancel" in out


def test_config(tmp_path):
    example = agent(None, "config", "example")
    f = tmp_path / "agent.conf"
    f.write_bytes(example.stdout)
    assert agent(None, "config", "check", str(f)).returncode == 0
    f.write_text("[node]\nslots = 2\nslotz = 3\n")
    p = agent(None, "config", "check", str(f))
    assert p.returncode == 1 and b"slotz" in p.stderr and b":3" in p.stderr
    p = agent(None, "config", "check", "--http.listen=nonsense")
    assert p.returncode == 1 and b"http.listen" in p.stderr


# ---- the way to the node ----

def test_nobody_there_is_one_clear_line():
    s = socket.create_server(("127.0.0.1", 0))
    addr = "127.0.0.1:%d" % s.getsockname()[1]
    s.close()
    p = agent(None, "status", "--node", addr)
    assert p.returncode == 1 and p.stdout == b"" and p.stderr.count(b"\n") == 1
    for word in (addr, "refused", "agent serve", "--node", "AGENT_ADDR"):
        assert word in p.stderr.decode()
    assert agent(None, "submit", "x", "--wait", "--node", addr).returncode == 125


def test_addresses(node):
    for form in (node.addr, f"http://{node.addr}", f"http://{node.addr}/", f":{node.port}",
                 f"localhost:{node.port}"):
        n = agent(None, "nodes", "-q", "--node", form, env={"AGENT_ADDR": "127.0.0.1:1"})
        assert text(n) == "n1\n", (form, n.stderr)


def test_server_that_speaks_nonsense():
    s = socket.create_server(("127.0.0.1", 0))
    import threading

    def talk():
        for answer in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc",
                       b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b""):
            c, _ = s.accept()
            c.recv(65536)
            c.sendall(answer)
            c.close()
    threading.Thread(target=talk, daemon=True).start()
    for said in ("answer", "broke", "answer", "broke"):
        p = agent(None, "status", "--node", "127.0.0.1:%d" % s.getsockname()[1])
        assert p.returncode == 1 and said in p.stderr.decode(), p
    s.close()


# ---- tables ----

def finished(node, n=3, state="succeeded", code=0):
    for i in range(n):
        node.jobs["j"] = {"name": "j", "image": "a/b:1", "revision": 1}
        agent(node, "submit", "j", check=True)
    deadline = time.time() + 5
    while not all(r.over() for r in node.runs) and time.time() < deadline:
        time.sleep(0.01)


def test_runs(node):
    finished(node)
    lines = text(agent(node, "runs")).splitlines()
    assert lines[0].split()[:4] == ["RUN", "JOB", "STATE", "RESULT"]
    assert len(lines) == 4 and node.runs[2].id in lines[1] and "exit 0" in lines[1]
    assert "7 MiB" in lines[1]
    assert len(text(agent(node, "runs", "--no-headers")).splitlines()) == 3
    assert text(agent(node, "runs", "-q")).split() == [r.id for r in reversed(node.runs)]
    assert text(agent(node, "runs", "-o", "name", "-n", "1")) == f"run/{node.runs[2].id}\n"
    doc = json.loads(agent(node, "runs", "-o", "json", "-j", "j", "-s", "succeeded").stdout)
    assert [r["id"] for r in doc["runs"]] == [r.id for r in reversed(node.runs)]
    assert node.requests[-1][1] == "/v1/runs?limit=20&job=j&state=succeeded"


def test_runs_walks_all_pages(node):
    from fake_node import Run
    node.runs = [Run(i % 1000, None, f"img:{i}", b"", {}) for i in range(1000)]
    for i, r in enumerate(node.runs):
        r.id = "01JD000000000000000000%04d" % i
    node.runs += [Run(1, None, "z:1", b"", {}) for _ in range(500)]
    for i, r in enumerate(node.runs[1000:]):
        r.id = "01JE000000000000000000%04d" % i
    ids = text(agent(node, "runs", "-q", "-n", "0")).split()
    assert len(ids) == 1500 and len(set(ids)) == 1500
    assert len(text(agent(node, "runs", "-q", "-n", "1200")).split()) == 1200


def test_terminal_escapes_are_shown_not_sent(node):
    node.jobs["e"] = {"name": "e\x1b[2J\u202e", "image": "a:\x07", "revision": 1}
    out = agent(node, "jobs").stdout
    assert b"\x1b" not in out and b"\x07" not in out
    assert "e\\x1b[2J\\u202e" in out.decode()
    assert b"\x1b" not in agent(node, "status").stdout


def test_status(node):
    node.script = play(lambda r: r.start(), lambda r: r.end("failed", "exit", 3))
    finished(node, 2)
    out = text(agent(node, "status"))
    assert "1 node" in out and "Nodes\n" in out and "Jobs\n" in out and "Last failures\n" in out
    assert "exit 3" in out and "disk is" in out
    assert re.search(r"^NODE .*CLASS +CAN +CPUS", out, re.M) and " aes,avx2 " in out
    assert json.loads(agent(node, "status", "-o", "json").stdout)["cluster"]["nodes"] == 1


def test_status_is_watched(node):
    """A page every two seconds, until somebody has seen enough."""
    p = subprocess.Popen([AGENT, "status", "--watch"], stdout=subprocess.PIPE,
                         env={**os.environ, "AGENT_ADDR": node.addr})
    pages = 0
    for line in p.stdout:
        pages += line.startswith(b"cluster ")
        if pages == 2:
            break
    p.send_signal(signal.SIGINT)
    p.communicate()
    assert pages == 2 and p.returncode == -signal.SIGINT
    p = agent(None, "status", "--watch", "--node", "127.0.0.1:1")
    assert p.returncode == 1 and p.stderr


def test_inspect(node):
    finished(node)
    run = node.runs[0]
    out = text(agent(node, "inspect", run.id))
    for words in ("succeeded (exit, exit code 0)", "peak 7 MiB (kernel)", "750 ms (user 500 ms",
                  "memory 512 MiB, 1.5 CPUs", "team=a", "cached"):
        assert words in out, out
    assert json.loads(agent(node, "inspect", run.id.lower(), "-o", "json").stdout)["id"] == run.id
    assert text(agent(node, "inspect", "j")).startswith("job ")
    assert f"run             {run.id}" in text(agent(node, "inspect", run.id[-6:]))
    p = agent(node, "inspect", "01JD00000")
    assert p.returncode == 1 and b"means 3 runs" in p.stderr
    p = agent(node, "inspect", "nothing")
    assert p.returncode == 1 and b"no run and no job 'nothing'" in p.stderr


def test_nodes_and_images(node):
    assert "GenuineIntel" in text(agent(node, "nodes", "n1"))
    assert "cpu-cpuid.AESNI" in text(agent(node, "nodes", "n1"))
    node.images = [{"repository": "team/enc", "tag": "1", "digest": "sha256:" + "ab" * 32,
                    "size_bytes": 5 << 20, "layers": 2, "pushed_at": "2026-11-23T08:00:00Z"}]
    out = text(agent(node, "images"))
    assert "team/enc" in out and "5 MiB" in out and "sha256:abababababab " in out
    assert text(agent(node, "images", "-q")) == "team/enc:1\n"
    p = agent(node, "images", "rm", "team/none:1", "team/enc:1")
    assert p.returncode == 1 and text(p) == "team/enc:1 removed\n" and b"no image" in p.stderr
    assert node.requests[-1][:2] == ("DELETE", "/v1/images/team/enc?tag=1")
    assert text(agent(node, "images", "prune")) == "pruned, blobs 3, bytes 4 KiB\n"


# ---- apply, cancel, retry ----

def test_apply(node, tmp_path):
    f = tmp_path / "jobs.json"
    f.write_text('{"name":"a","image":"x:1"}\n---\n{"name":"b","image":"x:1"}'
                 '[{"name":"c","image":"x:1"}]')
    assert text(agent(node, "apply", "-f", str(f))) == \
        "job/a created\njob/b created\njob/c created\n"
    f.write_text('[{"name":"a","image":"x:2"},{"name":"b","image":"x:1"}]')
    link = tmp_path / "link.json"
    link.symlink_to(f)
    assert text(agent(node, "apply", "-f", str(link))) == \
        "job/a changed (revision 2)\njob/b unchanged\n"
    p = agent(node, "apply", "-f", "-", "-o", "name", input=b'{"name":"d","image":"x:1"}')
    assert text(p) == "job/d\n"
    p = agent(node, "apply", "-f", "-", "-o", "json", input=b'{"name":"d","image":"x:1"}')
    assert json.loads(p.stdout)[0]["name"] == "d"


@pytest.mark.parametrize("document,said", [
    (b'{"name":"a",', "stdin: line 1"),
    (b'{"image":"x:1"}', "\"name\""),
    (b'', "no document"),
    (b'hello', "object or an array"),
    (b'{"name":"a","imagee":"x"}', "job 'a': the document has mistakes; imagee: unknown field"),
    (b'{"name":"a","image":"x:1"} trailing', "not 't'"),
])
def test_apply_refuses(node, document, said):
    p = agent(node, "apply", "-f", "-", input=document)
    assert p.returncode == 1 and said in p.stderr.decode(), p


def test_cancel_and_retry(node):
    node.script = play(lambda r: r.start(), lambda r: r.cancelled.wait(10),
                       lambda r: r.end("cancelled", "cancelled", signal=15))
    node.jobs["j"] = {"name": "j", "image": "a/b:1", "revision": 1}
    rid = text(agent(node, "submit", "j")).strip()
    p = agent(node, "cancel", "j", "nosuch")
    assert p.returncode == 1 and rid in text(p) and b"nosuch: there is no run" in p.stderr
    while not node.runs[0].over():
        time.sleep(0.01)
    p = agent(node, "cancel", rid)
    assert p.returncode == 1 and b"has ended (409)" in p.stderr
    assert text(agent(node, "retry", rid)).startswith(f"{rid} queued")


# ---- submit ----

@pytest.fixture
def job(node):
    node.jobs["j"] = {"name": "j", "image": "a/b:1", "revision": 1}
    return node


def test_submit_prints_the_id(job):
    assert text(agent(job, "submit", "j")) == job.runs[0].id + "\n"
    assert job.requests[-1][3] == b""
    p = agent(job, "submit", "nope")
    assert p.returncode == 1 and p.stderr == b"agent: there is no job 'nope' (404)\n"
    assert json.loads(agent(job, "submit", "j", "-o", "json").stdout)["job"] == "j"


def test_payload_ways(job, tmp_path):
    f = tmp_path / "p"
    f.write_bytes(os.urandom(3_000_000))
    agent(job, "submit", "j", "--payload", str(f), "--idempotency-key", "k1", check=True)
    method, target, headers, body = job.requests[-1]
    assert body == f.read_bytes() and headers["idempotency-key"] == "k1"
    assert headers["content-length"] == "3000000"
    agent(job, "submit", "j", "-d", "some text", check=True)
    assert job.requests[-1][3] == b"some text"
    agent(job, "submit", "j", "-d", f"@{f}", check=True)
    assert job.requests[-1][3] == f.read_bytes()
    agent(job, "submit", "j", "-p", "-", input=b"x" * 500_000, check=True)
    assert job.requests[-1][2]["transfer-encoding"] == "chunked"
    assert job.requests[-1][3] == b"x" * 500_000
    with open(f, "rb") as opened:
        opened.seek(1_000_000)
        agent(job, "submit", "j", "-p", "-", stdin=opened, check=True)
    assert job.requests[-1][3] == f.read_bytes()[1_000_000:]
    p = agent(job, "submit", "j", "-p", str(tmp_path))
    assert p.returncode == 1 and b"directory" in p.stderr
    p = agent(job, "submit", "j", "-p", str(tmp_path / "none"))
    assert p.returncode == 1 and b"No such file" in p.stderr


def test_one_off_document(node):
    agent(node, "submit", f"{node.addr}/team/t:1", "-e", "A=1", "-e", "A=2", "-e", "B=x=y", "-m",
          "1GiB", "--cpus", "1.5", "-t", "10m", "-l", "k=v", "--retries", "3", "--retry-delay",
          "5s", "-C", "/w", "-u", "1:2", "--entrypoint", "/bin/sh", "--network", "none", "--",
          "-c", "exit 3", check=True)
    assert json.loads(node.requests[-1][3]) == {
        "image": "team/t:1", "env": {"A": "2", "B": "x=y"}, "memory": "1GiB", "cpus": 1.5,
        "timeout": "10m", "labels": {"k": "v"}, "retries": {"max": 3, "delay": "5s"},
        "workdir": "/w", "user": "1:2", "entrypoint": ["/bin/sh"], "network": "none",
        "command": ["-c", "exit 3"]}
    p = agent(node, "images", "rm", "t@sha256:" + "0" * 64)
    assert node.requests[-1][:2] == ("DELETE", "/v2/t/manifests/sha256:" + "0" * 64)
    agent(node, "submit", "t:1", "-d", "load", "--", "a b", check=True)
    method, target, headers, body = node.requests[-1]
    assert body == b"load" and "?spec=%7B" in target
    assert node.runs[-1].document == {"image": "t:1", "command": ["a b"]}
    p = agent(node, "submit", "t:1", "-d", "load", "--", "x" * 7000)
    assert p.returncode == 1 and b"too long beside a payload" in p.stderr


def test_early_refusal_ends_the_upload(job, tmp_path):
    f = tmp_path / "big"
    with open(f, "wb") as out:
        out.truncate(400 << 20)
    job.early = (413, {"detail": "the payload is too large", "code": "body_too_large"})
    start = time.time()
    p = agent(job, "submit", "j", "-p", str(f))
    assert p.returncode == 1 and p.stderr == b"agent: the payload is too large (413)\n"
    assert time.time() - start < 10


# ---- submit --wait ----

def test_wait_is_a_filter(job):
    def echo(run):
        run.start()
        run.write(run.payload[::-1], b"log line\n")
        run.end("succeeded", "exit", 0)
    job.script = echo
    data = os.urandom(2_000_000)
    p = agent(job, "submit", "j", "--wait", input=data)
    assert p.returncode == 0 and p.stdout == data[::-1] and p.stderr == b"log line\n"


def test_wait_shows_streams_live(job):
    job.script = play(lambda r: r.start(), lambda r: r.write(b"one\n"), lambda r: time.sleep(1.5),
                      lambda r: r.write(b"two\n"), lambda r: r.end("succeeded", "exit", 0))
    p = subprocess.Popen([AGENT, "submit", "j", "--wait"], stdout=subprocess.PIPE,
                         stdin=subprocess.DEVNULL, env=dict(os.environ, AGENT_ADDR=job.addr))
    start = time.time()
    assert p.stdout.readline() == b"one\n"
    assert time.time() - start < 1
    assert p.stdout.read() == b"two\n" and p.wait() == 0


@pytest.mark.parametrize("end,code,said", [
    (("succeeded", "exit", 0), 0, b""),
    (("failed", "exit", 3), 3, b""),
    (("failed", "exit", 255), 255, b""),
    (("failed", "exit", 126), 126, b"could not be executed"),
    (("failed", "exit", 127), 127, b"was not found"),
    (("timed_out", "timeout", 124, 9), 124, b"timed out"),
    (("failed", "signal", 139, 11), 139, b"signal 11 (SIGSEGV)"),
    (("failed", "oom", 137, 9), 137, b"memory"),
    (("failed", "image", None, None, "no such tag"), 125, b"failed (image): no such tag"),
    (("lost", "node_lost"), 125, b"lost (node_lost)"),
    (("cancelled", "cancelled", 143, 15), 143, b"cancelled"),
])
def test_wait_exit_codes(job, end, code, said):
    job.script = play(lambda r: r.start(), lambda r: r.end(*end))
    p = agent(job, "submit", "j", "--wait")
    assert p.returncode == code and said in p.stderr and p.stdout == b""
    assert (p.stderr == b"") == (said == b"")


def test_wait_takes_a_broken_follow_up_again(job):
    data = os.urandom(300_000)

    def slowly(run):
        run.start()
        for i in range(0, len(data), 30_000):
            run.write(data[i:i + 30_000])
            time.sleep(0.01)
        run.end("succeeded", "exit", 0)
    job.script = slowly
    job.cut_follow = [1, 70_000, 200_000]
    p = agent(job, "submit", "j", "--wait")
    assert p.returncode == 0 and p.stdout == data and job.cut_follow == []


def test_wait_over_attempts(job, tmp_path):
    def twice(run):
        run.start()
        run.write(b"half of the first att")
        time.sleep(0.2)
        run.again()
        time.sleep(0.2)
        run.start()
        run.write(b"second\n")
        run.end("succeeded", "exit", 0)
    job.script = twice
    with open(tmp_path / "out", "wb") as out:
        p = subprocess.run([AGENT, "submit", "j", "--wait"], stdout=out, stderr=subprocess.PIPE,
                           stdin=subprocess.DEVNULL, env=dict(os.environ, AGENT_ADDR=job.addr))
    assert p.returncode == 0 and (tmp_path / "out").read_bytes() == b"second\n"
    p = agent(job, "submit", "j", "--wait")
    assert p.stdout == b"half of the first attsecond\n" and b"attempt 2 begins" in p.stderr


def interrupted(node, times, script):
    node.script = script
    p = subprocess.Popen([AGENT, "submit", "j", "--wait"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                         env=dict(os.environ, AGENT_ADDR=node.addr))
    assert p.stdout.readline() == b"started\n"
    for _ in range(times):
        p.send_signal(signal.SIGINT)
        time.sleep(0.3)
    return p.wait(timeout=10)


def test_interrupt_cancels(job):
    assert interrupted(job, 1, play(
        lambda r: r.start(), lambda r: r.write(b"started\n"), lambda r: r.cancelled.wait(10),
        lambda r: r.end("cancelled", "cancelled", signal=15))) == 143
    assert job.runs[0].cancelled.is_set()


def test_second_interrupt_leaves(job):
    assert interrupted(job, 2, play(
        lambda r: r.start(), lambda r: r.write(b"started\n"), lambda r: time.sleep(20))) == 130
    assert job.runs[0].cancelled.is_set()


def test_closed_stdout_cancels(job):
    def chatter(run):
        run.start()
        while not run.cancelled.wait(0.01):
            run.write(b"y\n" * 1000)
        run.end("cancelled", "cancelled", signal=15)
    job.script = chatter
    p = subprocess.run(["bash", "-c", f"'{AGENT}' submit j --wait | head -n 1; "
                        "echo ${PIPESTATUS[0]}"], capture_output=True, timeout=30,
                       stdin=subprocess.DEVNULL, env=dict(os.environ, AGENT_ADDR=job.addr))
    assert p.stdout == b"y\n141\n"
    assert job.runs[0].cancelled.wait(5)


def test_progress_on_a_terminal_only(job, tmp_path):
    f = tmp_path / "p"
    f.write_bytes(b"z" * (1 << 20))
    job.script = play(lambda r: time.sleep(0.7), lambda r: r.start(), lambda r: time.sleep(0.7),
                      lambda r: r.write(b"done\n"), lambda r: r.end("succeeded", "exit", 0))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(f, "rb") as stdin:
        p = subprocess.Popen([AGENT, "submit", "j", "--wait"], stdin=stdin, stderr=slave,
                             stdout=subprocess.PIPE, env=dict(os.environ, AGENT_ADDR=job.addr))
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65536):
            seen += chunk
    except OSError:
        pass
    assert p.stdout.read() == b"done\n" and p.wait() == 0
    assert b"queued" in seen and b"running" in seen and b"\r" in seen
    assert seen.endswith(b"\r\x1b[K")
    os.close(master)
    assert agent(job, "submit", "j", "--wait").stderr == b""


# ---- logs and output ----

def test_logs_and_output(job):
    job.script = play(lambda r: r.start(), lambda r: r.write(b"out\0\x1b\n", b"e1\ne2\ne3\n"),
                      lambda r: r.end("succeeded", "exit", 0))
    finished(job, 1)
    rid = job.runs[0].id
    assert agent(job, "output", rid).stdout == b"out\0\x1b\n"
    assert agent(job, "logs", "j").stdout == b"e1\ne2\ne3\n"
    assert agent(job, "logs", "-n", "2", rid[-5:]).stdout == b"e2\ne3\n"
    assert agent(job, "logs", "--stdout", rid).stdout == b"out\0\x1b\n"
    assert agent(job, "logs", "--both", rid).stdout == b"out\0\x1b\ne1\ne2\ne3\n"
    assert "stream=both" in job.requests[-1][1]
    p = agent(job, "logs", "01JD9999999999999999999999")
    assert p.returncode == 1 and b"there is no run" in p.stderr


def test_logs_follow_resumes(job):
    job.script = play(lambda r: r.start(), lambda r: r.write(b"abc", b"x"),
                      lambda r: time.sleep(0.5), lambda r: r.write(b"def"),
                      lambda r: r.end("succeeded", "exit", 0))
    job.cut_follow = [2]
    agent(job, "submit", "j", check=True)
    p = agent(job, "output", "-f", "j")
    assert p.returncode == 0 and p.stdout == b"abcdef", p


# ---- push ----

@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """An OCI layout with one image of two layers, tag 1."""
    import hashlib
    import io
    import tarfile
    top = tmp_path_factory.mktemp("push") / "layout"
    (top / "blobs/sha256").mkdir(parents=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (top / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def layer(name, content):
        b = io.BytesIO()
        with tarfile.open(fileobj=b, mode="w") as t:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
        return dict(blob(b.getvalue()), mediaType="application/vnd.oci.image.layer.v1.tar")
    layers = [layer("a", os.urandom(2_000_000)), layer("b", b"y")]
    config = dict(blob(json.dumps({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [x["digest"] for x in layers]}}).encode()),
        mediaType="application/vnd.oci.image.config.v1+json")
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers}).encode())
    (top / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (top / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [dict(
        manifest, mediaType="application/vnd.oci.image.manifest.v1+json",
        annotations={"org.opencontainers.image.ref.name": "1"})]}))
    return top


def test_push_only_what_is_missing(node, layout):
    p = agent(node, "push", str(layout), "team/x:1")
    assert p.returncode == 0 and "3 of 3 blobs were new" in text(p), p
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    stored = node.manifests["team/x:1"]
    assert stored[0] == "application/vnd.oci.image.manifest.v1+json"
    assert stored[1] == (layout / "blobs/sha256" / digest[7:]).read_bytes()
    sent = node.patches
    assert "0 of 3 blobs were new, 0 B sent" in text(agent(node, "push", str(layout), "team/x:2"))
    assert node.patches == sent
    node.mount_from = set(node.blobs)
    node.blobs = {}
    assert "0 of 3" in text(agent(node, "push", str(layout), "other/y:1"))
    assert text(agent(node, "push", "-q", str(layout), "team/x:3")) == digest + "\n"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("around", [None, "gzip", "zstd"])
def test_push_archives(node, layout, tmp_path, form, around):
    f = tmp_path / "image.tar"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:1", f"{form}:{f}:team/y:2"], check=True)
    if around:
        subprocess.run([around, "-q", *(["--rm"] if around == "zstd" else []), str(f)], check=True)
        f = next(tmp_path.iterdir())
    p = agent(node, "push", str(f), env={"TMPDIR": str(tmp_path)})
    assert p.returncode == 0 and text(p).startswith("team/y:2 sha256:"), p
    kind, document = node.manifests["team/y:2"]
    manifest = json.loads(document)
    assert kind == manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    for d in [manifest["config"], *manifest["layers"]]:
        assert len(node.blobs[d["digest"]]) == d["size"]
    assert len(manifest["layers"]) == 2
    assert [x.name for x in tmp_path.iterdir()] == [f.name]


def test_push_says_what_is_wrong(node, layout, tmp_path):
    def refused(*args):
        p = agent(node, "push", *map(str, args))
        assert p.returncode == 1 and p.stderr.count(b"\n") == 1
        return p.stderr.decode()
    assert "say REPOSITORY:TAG" in refused(layout)
    assert "No such file" in refused(tmp_path / "none", "a:1")
    assert "neither an OCI layout" in refused(tmp_path, "a:1")
    assert "not a tar archive" in refused("/etc/passwd", "a:1")
    cut = tmp_path / "cut.tar.gz"
    subprocess.run(f"tar -C {layout} -c . | gzip | head -c 100000 > {cut}", shell=True, check=True)
    assert "ends too early" in refused(cut, "a:1")
    # A blob whose bytes are not what its name says: the node finds out.
    bad = tmp_path / "bad"
    subprocess.run(["cp", "-r", str(layout), str(bad)], check=True)
    biggest = max((bad / "blobs/sha256").iterdir(), key=lambda x: x.stat().st_size)
    biggest.write_bytes(b"z" * biggest.stat().st_size)
    assert "not the digest (400)" in refused(bad, "a:1")


# ---- doctor ----

def test_doctor(tmp_path):
    p = agent(None, "doctor", "-o", "json", f"--node.data_dir={tmp_path}",
              "--http.listen=127.0.0.1:0", "--node.user=nobody")
    doc = json.loads(p.stdout)
    rows = {c["name"]: c for c in doc["checks"]}
    assert p.returncode == (0 if doc["ok"] else 1)
    assert doc["ok"] == all(c["verdict"] != "fail" for c in doc["checks"])
    assert rows["kernel"]["found"].startswith(os.uname().release)
    assert "fdatasync" in rows["disk sync"]["found"]
    assert all(c["lost_without"] and c["fix"] for c in doc["checks"])
    assert list(tmp_path.iterdir()) == []
    p = agent(None, "doctor", "--node.user=no-such-user", "--nonsense.key=1")
    assert p.returncode == 1 and "FAIL" in text(p) and "lost:" in text(p)


def test_doctor_leaves_mounts_alone():
    before = open("/proc/self/mountinfo").read()
    agent(None, "doctor")
    assert open("/proc/self/mountinfo").read() == before
