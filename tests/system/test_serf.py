"""A mixed cluster with Debian's serf: another implementation of the same protocol is the judge."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from conftest import PREFIX, free_port, wait_for
from members import key, key_file, members, wait_states

VSN = "1,5,2,2,5,5"  # serf's delegate speaks 2 to 5


class Serf:
    def __init__(self, name, *args):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX))
        self.port = free_port()
        self.bind = f"127.0.0.1:{self.port}"
        self.rpc = f"127.0.0.1:{free_port()}"
        self.log_path = self.dir / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                ["serf", "agent", f"-node={name}", f"-bind={self.bind}", f"-rpc-addr={self.rpc}",
                 "-log-level=debug", *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self.call("info", check=False).returncode == 0, 20)

    def call(self, *args, check=True):
        command, *rest = args
        return subprocess.run(["serf", command, f"-rpc-addr={self.rpc}", *rest],
                              capture_output=True, check=check, timeout=30)

    def states(self):
        out = self.call("members", "-format=json", check=False).stdout
        return {m["name"]: m["status"] for m in json.loads(out)["members"]} if out else {}

    def wait(self, want, seconds=40):
        def seen():
            """serf sees the states"""
            now = self.states()
            return all(now.get(n) == s for n, s in want.items())
        try:
            wait_for(seen, seconds, 0.1)
        except AssertionError as e:
            raise AssertionError(f"wanted {want}, serf sees {self.states()}\n"
                                 f"{self.log_path.read_text(errors='replace')[-4000:]}") from e

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.dir)


@pytest.fixture
def make_serf():
    if not shutil.which("serf"):
        pytest.skip("serf is not installed (packaging/deps test)")
    made = []

    def make(*args):
        made.append(Serf(*args))
        return made[-1]

    yield make
    for s in made:
        s.close()


def test_serf_joins_us(make_node, make_serf):
    """Joined, listed both ways; serf's failure and its leave are told apart by us."""
    a = make_node(node__name="a", gossip__vsn=VSN)
    join = f"-join={a.settings['gossip.listen']}"
    s1, s2 = make_serf("s1", join), make_serf("s2", join)
    s1.wait({"a": "alive", "s2": "alive"})
    s2.wait({"a": "alive", "s1": "alive"})
    wait_states(a, {"s1": "alive", "s2": "alive"})
    assert not members(a)["s1"]["agent"]
    assert "agent" not in a.cli("members").stdout.decode().split("s1", 1)[1].splitlines()[0]

    s1.process.kill()
    wait_states(a, {"s1": "dead"}, 40)
    s2.wait({"s1": "failed"})
    s2.call("leave")
    wait_states(a, {"s2": "left"}, 40)


def test_we_join_serf(make_node, make_serf):
    """We join serf; our failure and our leave are told apart by serf; we come back."""
    s1 = make_serf("s1")
    a = make_node(node__name="a", gossip__vsn=VSN, gossip__join=s1.bind)
    b = make_node(node__name="b", gossip__vsn=VSN, gossip__join=s1.bind)
    s1.wait({"a": "alive", "b": "alive"})
    wait_states(a, {"s1": "alive", "b": "alive"})
    # serf's own test of the network: everybody answers its query? ours do not speak that, serf does
    assert s1.states() == {"s1": "alive", "a": "alive", "b": "alive"}
    a.kill()
    s1.wait({"a": "failed"})
    b.stop()
    s1.wait({"b": "left"})
    a.start()
    s1.wait({"a": "alive"})


def test_serf_probes_keep_us_alive(make_node, make_serf):
    """Serf's own probes of us all succeed: no suspicion within many of its rounds."""
    s1 = make_serf("s1")
    a = make_node(node__name="a", gossip__vsn=VSN, gossip__join=s1.bind)
    s1.wait({"a": "alive"})
    wait_for(lambda: members(a)["s1"].get("rtt_us"), 20)
    wait_for(lambda: int(_metric(a, "agent_gossip_packets_received_total")) > 20, 30)
    log = s1.log_path.read_text(errors="replace")
    assert "Suspect" not in log and "Failed" not in log, log[-3000:]
    assert _metric(a, "agent_gossip_refutations_total") == 0


def _metric(node, name):
    for line in node.http("GET", "/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    raise AssertionError(name)


def test_encrypted(make_node, make_serf, tmp_path):
    k = key()
    path = key_file(tmp_path, "keys", key(16), k)
    s1 = make_serf("s1", f"-encrypt={k}")
    # Their key is our second: we decrypt with it, but speak with our first. Serf refuses that.
    other = make_node(node__name="other", gossip__vsn=VSN, gossip__join=s1.bind,
                      gossip__key_file=path)
    path = key_file(tmp_path, "keys2", k, key(16))
    a = make_node(node__name="a", gossip__vsn=VSN, gossip__join=s1.bind, gossip__key_file=path)
    s1.wait({"a": "alive"})
    wait_states(a, {"s1": "alive"})
    s1.process.kill()
    wait_states(a, {"s1": "dead"}, 40)
    assert set(members(other)) == {"other"}


def test_versions_are_respected(make_node, make_serf):
    """Without serf's delegate versions a join is refused by both, and said."""
    s1 = make_serf("s1")
    a = make_node(node__name="a", gossip__join=s1.bind)
    wait_for(lambda: "protocol versions" in a.log(), 20)
    assert set(members(a)) == {"a"} and set(s1.states()) == {"s1"}
    assert os.path.exists(a.log_path)
