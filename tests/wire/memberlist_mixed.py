"""Mixed clusters with Debian's Go memberlist. MEMBERLIST: its program (tests/bench/memberlist)."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
from conftest import free_port, make_node, needs_root, wait_for  # noqa: E402,F401
from members import key, key_file, members, metric, wait_states  # noqa: E402

PROGRAM = os.environ["MEMBERLIST"]


class Go:
    """One node of the Go library; what it sees comes as lines of JSON."""

    def __init__(self, name, seed="-", secret="-"):
        self.addr = f"127.0.0.1:{free_port()}"
        self.states = {}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([PROGRAM, "node", name, self.addr, seed, secret], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.states = json.loads(line)

    def wait(self, want, seconds=40):
        def seen():
            """memberlist sees the states"""
            return all(self.states.get(n) == s for n, s in want.items())
        try:
            wait_for(seen, seconds)
        except AssertionError as e:
            raise AssertionError(f"wanted {want}, memberlist sees {self.states}") from e

    def suspected(self, name):
        self.log.seek(0)
        return f"Suspect {name} " in self.log.read()

    def leave(self):
        self.process.stdin.write("leave\n")
        self.process.stdin.flush()
        self.process.wait(30)

    def close(self):
        self.process.kill()
        self.process.wait(10)
        self.reader.join()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def make_go():
    made = []

    def make(*args):
        made.append(Go(*args))
        return made[-1]

    yield make
    for g in made:
        g.close()


@pytest.mark.parametrize("size", [0, 16, 32])
def test_they_join_us(make_node, make_go, tmp_path, size):  # noqa: F811
    """Three of theirs join one of ours: seen, killed, left. Plain, AES-128, AES-256."""
    secret, settings = "-", {}
    if size:
        secret = key(size)
        settings = {"gossip__key_file": key_file(tmp_path, "keys", secret)}
    a = make_node(node__name="a", **settings)
    g = [make_go(f"g{i}", a.settings["gossip.listen"], secret) for i in range(3)]
    wait_states(a, {"a": "alive", "g0": "alive", "g1": "alive", "g2": "alive"})
    for one in g:
        one.wait({"a": "alive", "g0": "alive", "g1": "alive", "g2": "alive"})
    wait_for(lambda: members(a)["g0"].get("rtt_us"), 20)
    g[0].process.kill()
    wait_states(a, {"g0": "dead"}, 40)
    g[1].wait({"g0": "dead"})
    g[1].leave()
    wait_states(a, {"g1": "left"}, 40)
    assert members(a)["g2"]["state"] == "alive"
    assert metric(a, "agent_gossip_dropped_malformed_total") == 0


def test_we_join_them(make_node, make_go):  # noqa: F811
    """Three of ours join one of theirs: one is killed, one leaves, one changes and comes back."""
    g = make_go("g")
    a, b, c = (make_node(node__name=n, gossip__join=g.addr) for n in "abc")
    g.wait({"g": "alive", "a": "alive", "b": "alive", "c": "alive"})
    for node in (a, b, c):
        wait_states(node, {"g": "alive", "a": "alive", "b": "alive", "c": "alive"})
    b.kill()
    g.wait({"b": "dead"})
    c.stop()
    # This version's events do not tell leaving from dying; but nobody had to suspect it.
    g.wait({"c": "dead"})
    assert g.suspected("b") and not g.suspected("c")
    b.start()
    g.wait({"b": "alive"})
    wait_states(a, {"b": "alive", "c": "left", "g": "alive"})


def test_long_life_together(make_node, make_go):  # noqa: F811
    """Half a minute of probes, push/pulls and gossip between both kinds: nobody is suspected."""
    a = make_node(node__name="a")
    b = make_node(node__name="b", gossip__join=a.settings["gossip.listen"])
    g, h = make_go("g", a.settings["gossip.listen"]), make_go("h", b.settings["gossip.listen"])
    names = {"a": "alive", "b": "alive", "g": "alive", "h": "alive"}
    for one in (g, h):
        one.wait(names)
    before = metric(a, "agent_gossip_probes_total")
    wait_for(lambda: metric(a, "agent_gossip_probes_total") >= before + 30, 60)
    for node in (a, b):
        assert metric(node, "agent_gossip_suspicions_total") == 0
        assert metric(node, "agent_gossip_refutations_total") == 0
        assert metric(node, "agent_gossip_probes_failed_total") == 0
    assert g.states == names and h.states == names
