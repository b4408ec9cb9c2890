"""Network nat through a whole node: names, DNS, records. The node runs in a network namespace of
the test's own; its resolvers are programs of the test's own."""
import json
import os
import shutil
import subprocess
import time

import pytest

from conftest import AGENT, IMAGE, Node, wait_for
from netlab import Lab, NODE4, NODE6

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the launcher needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) shows what is left"),
]

OPEN4, OTHER4, OPEN6 = "203.0.113.7", "203.0.113.8", "2001:db8:7::7"
RESOLVER = "203.0.113.53"


class LabNode(Node):
    """A node in the lab's namespace: its client commands run there, too."""

    def __init__(self, lab, **settings):
        super().__init__(**settings)
        self.lab = lab

    def start(self, wait=True, env=None):
        args = self.lab.node.enter(AGENT, "serve", *(f"--{k}={v}" for k, v in
                                                     self.settings.items()))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready():
            """the node is ready"""
            assert self.process.poll() is None, self.log()
            return self.cli("status", check=False).returncode == 0
        wait_for(ready, 30)
        return self

    def cli(self, *args, stdin=b"", check=True, timeout=60, env=None):
        p = subprocess.run(self.lab.node.enter(AGENT, *args), input=stdin, capture_output=True,
                           timeout=timeout, env={**os.environ, "AGENT_ADDR": self.addr})
        assert not check or p.returncode == 0, (args, p.stdout[-2000:], p.stderr[-2000:],
                                                self.log()[-3000:])
        return p

    def sh(self, script, *flags, network="nat", check=False):
        """A one-off of busybox's sh: its stdout, as lines."""
        p = self.cli("submit", IMAGE, "--wait", "--network", network, *flags, "--", "sh", "-c",
                     script, check=check)
        return p.stdout.decode().splitlines()


@pytest.fixture(scope="module")
def lab():
    lab = Lab()
    try:
        lab.address(OPEN4 + "/32", OTHER4 + "/32", RESOLVER + "/32", OPEN6 + "/128")
        lab.world.serve(*[x for a in (OPEN4, OTHER4, OPEN6) for x in ("tcp", a, "80")])
        names = dict(both_test=f"{OPEN4},{OPEN6}", four_test=OPEN4, other_test=OTHER4,
                     alias_test="@four.test", silent_test="silent", deep_sub_test=OTHER4)
        lab.world.dns(RESOLVER, **names)
        lab.node.dns("127.0.0.53", **names)
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def node(lab, image_tar):
    n = LabNode(lab, sandbox__nat_resolvers=RESOLVER)
    try:
        n.start()
        n.cli("push", image_tar)
        yield n
    finally:
        n.close()


def dial(name):
    return f"echo x | nc -w 3 {name} 80 2>/dev/null || echo no"


def test_names_are_resolved_and_reached(node):
    assert node.sh(f"cat /etc/resolv.conf; {dial('four.test')}; {dial('nosuch.test')}") == \
        ["nameserver 127.0.0.53", f"{OPEN4} 80 from {NODE4}", "no"]


def test_an_egress_list_of_names(node):
    got = node.sh("; ".join(dial(x) for x in ("four.test", "other.test", OPEN4, OTHER4)),
                  "--egress", "four.test:80")
    assert got == [f"{OPEN4} 80 from {NODE4}", "no", f"{OPEN4} 80 from {NODE4}", "no"]


def test_nothing_is_open_before_it_is_asked_for(node):
    got = node.sh(f"{dial(OPEN4)}; nslookup four.test >/dev/null; {dial(OPEN4)}",
                  "--egress", "four.test:80")
    assert got == ["no", f"{OPEN4} 80 from {NODE4}"]


def test_aliases_wildcards_and_ports(node):
    got = node.sh("; ".join(dial(x) for x in ("alias.test", "deep.sub.test", "other.test")),
                  "--egress", "alias.test:80", "--egress", "*.sub.test:80", "--egress",
                  "other.test:81")
    # What is one address for two names is open for both.
    assert got[:2] == [f"{OPEN4} 80 from {NODE4}", f"{OTHER4} 80 from {NODE4}"]
    got = node.sh(dial("other.test"), "--egress", "other.test:81")
    assert got == ["no"]


def test_both_families(node):
    got = node.sh(f"nslookup both.test >/dev/null; {dial(OPEN6)}; {dial(OPEN4)}",
                  "--egress", "both.test:80")
    assert got[:2] == [f"{OPEN6} 80 from {NODE6}", f"{OPEN4} 80 from {NODE4}"]


def test_a_resolver_that_never_answers(node):
    began = time.monotonic()
    got = node.sh(f"nslookup silent.test 2>&1 | tail -n 3; {dial('four.test')}",
                  "--egress", "silent.test:80", "--egress", "four.test:80", "-t", "40s")
    assert time.monotonic() - began < 40
    assert got[-1] == f"{OPEN4} 80 from {NODE4}", got


def test_the_nodes_own_loopback_resolver(lab, image_tar):
    n = LabNode(lab, sandbox__nat_resolvers="127.0.0.53")
    try:
        n.start()
        n.cli("push", image_tar)
        assert n.sh(dial("four.test"), "--egress", "four.test:80") == [f"{OPEN4} 80 from {NODE4}"]
        assert n.sh("nc -w 1 127.0.0.1 82 || echo no") == ["no"]
    finally:
        n.close()


def test_counts_are_in_the_record(node):
    p = node.cli("submit", IMAGE, "--network", "nat", "--", "sh", "-c",
                 f"head -c 100000 /dev/zero | nc -w 2 {OPEN4} 80; true")
    run = p.stdout.decode().split()[-1]

    def ended():
        """the run has ended"""
        r = json.loads(node.cli("inspect", run, "-o", "json").stdout)
        return r if r["state"] == "succeeded" else None
    r = wait_for(ended)
    used = r["resources"]
    assert r["limits"]["network"] == "nat"
    assert used["network_tx_bytes"] > 50000 and used["network_rx_bytes"] > 100
    assert used["network_tx_packets"] > 3 and used["network_rx_packets"] > 3
    text = node.cli("inspect", run).stdout.decode()
    assert "received" in text and "packets, sent" in text


def test_problems_are_named(node):
    p = node.cli("submit", IMAGE, "--network", "nat", "--egress", "10.0.0.1/8", "--", "true",
                 check=False)
    assert p.returncode != 0 and b"egress[0]" in p.stderr and b"prefix" in p.stderr
    p = node.cli("submit", IMAGE, "--egress", "*:443", "--", "true", check=False)
    assert p.returncode != 0 and b"egress" in p.stderr


def test_a_restarted_agent_answers_again(node, lab):
    p = node.cli("submit", IMAGE, "--network", "nat", "--egress", "four.test:80", "--", "sh", "-c",
                 f"nslookup four.test >/dev/null; sleep 5; nslookup other.test | grep -c {OTHER4};"
                 f" {dial('four.test')}")
    run = p.stdout.decode().split()[-1]
    time.sleep(1.5)
    os.kill(node_agent(node), 9)

    def ended():
        """the run has ended"""
        r = node.cli("inspect", run, "-o", "json", check=False)
        return r.returncode == 0 and json.loads(r.stdout)["state"] == "succeeded"
    wait_for(ended, 40)
    assert node.cli("output", run).stdout.decode().splitlines() == \
        ["1", f"{OPEN4} 80 from {NODE4}"]


def node_agent(node):
    """The unprivileged process."""
    children = subprocess.run(["pgrep", "-P", str(node.process.pid), "-u", "nobody"],
                              capture_output=True, text=True).stdout.split()
    assert children
    return int(children[0])


def test_nothing_is_left(lab, image_tar):
    before = (lab.links(), lab.tables())
    n = LabNode(lab)
    n.start()
    n.cli("push", image_tar)
    n.sh("true", check=True)
    assert lab.tables() != before[1]
    n.stop()
    assert (lab.links(), lab.tables()) == before
    n.close()
