"""Clusters of real agents, each in a network namespace of its own on one bridge: cuts and loss."""
import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import AGENT, Node, wait_for
from members import key, key_file

COUNT = 4


def run(*args, check=True):
    return subprocess.run([str(a) for a in args], check=check, capture_output=True, text=True)


class Net:
    """A bridge in a namespace, and one namespace per node. Made and removed by the test."""

    def __init__(self):
        self.tag = f"agt{os.getpid()}"
        self.names = [f"{self.tag}-{i}" for i in range(COUNT)]
        run("ip", "netns", "add", f"{self.tag}-br")
        self.inside("br", "ip", "link", "add", "br0", "type", "bridge")
        self.inside("br", "ip", "link", "set", "br0", "up")
        for i, name in enumerate(self.names):
            run("ip", "netns", "add", name)
            self.inside("br", "ip", "link", "add", f"v{i}", "type", "veth", "peer", "name", "eth0",
                        "netns", name)
            self.inside("br", "ip", "link", "set", f"v{i}", "master", "br0", "up")
            self.inside(i, "ip", "addr", "add", f"{self.ip(i)}/24", "dev", "eth0")
            self.inside(i, "ip", "link", "set", "eth0", "up")
            self.inside(i, "ip", "link", "set", "lo", "up")

    @staticmethod
    def ip(i):
        return f"10.213.7.{i + 1}"

    def enter(self, which):
        """The words before a command that runs in that namespace; the mounts stay as they are."""
        return ["nsenter", f"--net=/run/netns/{self.tag}-{which}"]

    def inside(self, which, *args, check=True):
        return run(*self.enter(which), *args, check=check)

    def rules(self, i, *rules):
        """What node i does not let in; none: everything comes in."""
        self.inside(i, "nft", "delete", "table", "ip", "cut", check=False)
        if rules:
            text = "".join(f"  {r} drop\n" for r in rules)
            table = "table ip cut {\n chain arriving {\n" \
                "  type filter hook input priority 0; policy accept;\n" \
                f"{text} }}\n}}\n"
            subprocess.run([*self.enter(i), "nft", "-f", "-"], input=table, check=True, text=True,
                           capture_output=True)

    def split(self, a, b):
        for side, other in ((a, b), (b, a)):
            addresses = ", ".join(self.ip(i) for i in other)
            for i in side:
                self.rules(i, f"ip saddr {{ {addresses} }}")

    def lossy(self, i, percent):
        """Loss and delay by netem where the kernel has it, else loss by a filter. Which it was."""
        if self.inside(i, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "3ms",
                       "2ms", "loss", f"{percent}%", check=False).returncode == 0:
            return "netem"
        self.rules(i, f"meta l4proto udp numgen random mod 100 < {percent}")
        return "filter"

    def close(self):
        for name in [*self.names, f"{self.tag}-br"]:
            run("ip", "netns", "del", name, check=False)


class Inside(Node):
    """A node whose launcher lives in a namespace."""

    def __init__(self, net, i, keys):
        super().__init__(node__name=f"n{i}", http__listen="127.0.0.1:7575",
                         gossip__listen=f"{net.ip(i)}:7946", gossip__join=f"{net.ip(0)}:7946",
                         gossip__key_file=keys, auth__insecure="yes")
        self.net, self.i = net, i

    def start(self, wait=True, env=None):
        args = [AGENT, "serve", *(f"--{k}={v}" for k, v in self.settings.items())]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*self.net.enter(self.i), *args], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)
        return self

    def states(self):
        p = self.net.inside(self.i, AGENT, "members", "-o", "json", "--node", "127.0.0.1:7575",
                            check=False)
        if p.returncode != 0:
            return {}
        return {m["name"]: m["state"] for m in json.loads(p.stdout)["members"]}


@pytest.fixture
def inside(tmp_path):
    if not all(shutil.which(tool) for tool in ("nsenter", "nft", "ip", "tc")):
        pytest.skip("nsenter, nft, ip or tc is not installed")
    try:
        net = Net()
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no network namespaces here: {e.stderr}")
    keys = key_file(tmp_path, "keys", key())
    nodes = []
    try:
        for i in range(COUNT):
            nodes.append(Inside(net, i, keys).start())
        yield net, nodes
    finally:
        for node in nodes:
            node.close()
        net.close()


def wait_seen(node, want, seconds):
    def seen():
        """the node sees the states"""
        now = node.states()
        return now and all(now.get(n) == s for n, s in want.items())
    try:
        wait_for(seen, seconds, 0.3)
    except AssertionError as e:
        raise AssertionError(f"wanted {want}, n{node.i} sees {node.states()}\n"
                             f"{node.log()[-3000:]}") from e


def test_a_cut_heals(inside):
    """Two and two, until each side has forgotten the other; then whole again by itself."""
    net, nodes = inside
    everyone = {f"n{i}": "alive" for i in range(COUNT)}
    for node in nodes:
        wait_seen(node, everyone, 40)
    net.split([0, 1], [2, 3])
    wait_seen(nodes[0], {"n1": "alive", "n2": "dead", "n3": "dead"}, 60)
    wait_seen(nodes[3], {"n2": "alive", "n0": "dead", "n1": "dead"}, 60)
    wait_seen(nodes[1], {"n2": None, "n3": None}, 90)
    wait_seen(nodes[2], {"n0": None, "n1": None}, 90)
    for i in range(COUNT):
        net.rules(i)
    for node in nodes:
        wait_seen(node, everyone, 90)


def test_loss_kills_nobody(inside):
    """A third of all datagrams lost, everywhere: nobody is declared dead."""
    net, nodes = inside
    everyone = {f"n{i}": "alive" for i in range(COUNT)}
    for node in nodes:
        wait_seen(node, everyone, 40)
    print("loss by", {net.lossy(i, 30) for i in range(COUNT)})
    time.sleep(25)  # what must not happen needs time to happen in
    for node in nodes:
        assert "died" not in node.log(), node.log()[-3000:]
        assert set(node.states().values()) <= {"alive", "suspect"}
