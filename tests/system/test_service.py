"""The daemon as systemd sees it: READY, STOPPING, signals, exit codes."""
import os
import signal
import socket

from conftest import proc_status, wait_for


def notify_socket(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(str(path))
    os.chmod(path, 0o777)
    s.settimeout(20)
    return s


def messages(s, until):
    """Lines sent to the socket, up to the one that begins with `until`."""
    out = []
    while True:
        out += s.recv(65536).decode().splitlines()
        if any(line.startswith(until) for line in out):
            return out


def test_ready_and_stopping_are_said(make_node):
    node = make_node(start=False)
    with notify_socket(node.dir / "notify") as s:
        node.start(wait=False, env={"NOTIFY_SOCKET": str(node.dir / "notify")})
        assert "READY=1" in messages(s, "READY=1")
        # READY means it: the very next request is answered.
        assert node.http("GET", "/readyz").status == 200
        assert node.stop() == 0
        assert "STOPPING=1" in messages(s, "STOPPING=1")


def test_the_watchdog_is_fed(make_node):
    node = make_node(start=False)
    with notify_socket(node.dir / "notify") as s:
        node.start(wait=False, env={"NOTIFY_SOCKET": str(node.dir / "notify"),
                                    "WATCHDOG_USEC": "1000000"})
        messages(s, "READY=1")
        for _ in range(3):
            messages(s, "WATCHDOG=1")


def test_a_hung_agent_process_does_not_feed_the_watchdog(make_node):
    node = make_node(start=False)
    with notify_socket(node.dir / "notify") as s:
        node.start(wait=False, env={"NOTIFY_SOCKET": str(node.dir / "notify"),
                                    "WATCHDOG_USEC": "1000000"})
        messages(s, "WATCHDOG=1")
        pid = node.agent_pid()
        os.kill(pid, signal.SIGSTOP)  # the loop turns no more
        try:
            s.settimeout(3)
            fed = 0
            try:
                while fed < 5:
                    messages(s, "WATCHDOG=1")
                    fed += 1
            except TimeoutError:
                pass
            # What was under way may still arrive; then there must be silence.
            assert fed < 5, "the watchdog is fed although the agent process hangs"
        finally:
            os.kill(pid, signal.SIGCONT)


def test_the_network_facing_process_is_unprivileged(node):
    status = proc_status(wait_for(node.agent_pid))
    assert int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0
    assert int(status["CapBnd"], 16) == 0 and int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert set(status["Uid"].split()) != {"0"}
    assert "0" not in status["Groups"].split()


def test_sighup_reloads_and_says_so(node):
    before = node.log()
    node.reload()
    wait_for(lambda: node.log() != before)
    assert node.http("GET", "/readyz").status == 200


def test_sigterm_ends_with_zero(node):
    assert node.stop() == 0


def test_bad_configuration_names_file_line_and_key(make_node):
    node = make_node(start=False)
    conf = node.dir / "agent.conf"
    conf.write_text("[node]\nslots = many\n")
    p = node.cli("serve", "--config", conf, check=False)
    assert p.returncode != 0
    text = p.stderr.decode()
    assert "agent.conf" in text and "2" in text and "slots" in text
