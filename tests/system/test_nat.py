"""Network nat: a launcher in a network namespace of the test's own, with one link to a world where
servers are. What is allowed reaches, what is not does not, and nothing is left behind."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import sandbox_client as sc
from conftest import AGENT
from netlab import Lab, NODE4, NODE6, WORLD4
from sandbox_client import Launcher, busybox_layer

BUILD = pathlib.Path(AGENT).resolve().parent
DRIVER, PROBES = BUILD / "sandbox_driver", BUILD / "probes"
NAT = 2

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the launcher needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) shows what is left"),
]

OPEN4, OTHER4, OPEN6, OTHER6 = "203.0.113.7", "203.0.113.8", "2001:db8:7::7", "2001:db8:7::8"
METADATA = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"]
LINK_LOCAL = "169.254.10.10"


@pytest.fixture(scope="module")
def lab():
    lab = Lab()
    try:
        v4 = [OPEN4, OTHER4, LINK_LOCAL, *[a for a in METADATA if ":" not in a]]
        v6 = [OPEN6, OTHER6, *[a for a in METADATA if ":" in a]]
        lab.address(*[a + "/32" for a in v4], *[a + "/128" for a in v6])
        lab.node.run("ip", "-6", "route", "add", "fd00:ec2::254/128", "via", "2001:db8:1::1")
        lab.world.serve(*[x for a in v4 + v6 for p in ("80", "81")
                          for x in ("tcp", a, p, "udp", a, p)])
        lab.node.serve("tcp", "0.0.0.0", "80", "tcp", "::", "81", "udp", "0.0.0.0", "80",
                       "tcp", "127.0.0.1", "82")
        yield lab
    finally:
        lab.close()


def fill(root):
    busybox_layer(root)
    shutil.copy(PROBES / "probe_net", root / "bin")


def start(lab, **settings):
    box = Launcher(DRIVER, enter=lab.node.enter(), **settings)
    box.image = [box.layer(fill)]
    return box


@pytest.fixture(scope="module")
def box(lab):
    b = start(lab)
    yield b
    b.close()


@pytest.fixture
def fresh(lab):
    made = []

    def make(**settings):
        made.append(start(lab, **settings))
        return made[-1]
    yield make
    for b in made:
        b.close()


def ends(box, script, **spec):
    spec.setdefault("network", NAT)
    run = box.run(box.image, ["sh", "-c", script], **spec)
    end = box.wait_ended(run, seconds=30)
    return end, box.output(run).decode(), box.log_of(run).decode()


def ask(addr, port=80, proto="tcp"):
    """A line of shell that prints what the server at addr says, or "no"."""
    return f"probe_net {proto} {addr} {port} 2>/dev/null"


def answers(box, *questions, **spec):
    """What each of ask()'s lines prints."""
    end, out, log = ends(box, "\n".join(questions), **spec)
    assert end["reason"] == "exit", (end, log)
    return out.splitlines()


# ---- what is reached

def test_both_families_reach_the_world_as_the_node(box):
    got = answers(box, ask(OPEN4), ask(OPEN6), ask(OPEN4, 80, "udp"))
    assert got == [f"{OPEN4} 80 from {NODE4}", f"{OPEN6} 80 from {NODE6}",
                   f"{OPEN4} 80 from {NODE4}"]


def test_none_has_no_interface_after_nat_used_the_slot(lab, fresh):
    box = fresh(node__slots=1)
    for network, names in ((NAT, ["lo", "eth0"]), (0, ["lo"]), (NAT, ["lo", "eth0"])):
        _, out, _ = ends(box, "ip -o link", network=network)
        assert re.findall(r"^\d+: (\w+)", out, re.M) == names
        assert len(lab.links()) >= 1


@pytest.mark.parametrize("addr", [*METADATA, LINK_LOCAL])
def test_metadata_and_link_local_are_closed(box, lab, addr):
    out = lab.node.run(PROBES / "probe_net", "tcp", addr, "80").stdout  # the node may
    assert out == f"{addr} 80 from {NODE6 if ':' in addr else NODE4}\n"
    assert answers(box, ask(addr)) == ["no"]
    assert answers(box, ask(addr), egress=[("*", "any", 0, 0)]) == ["no"]  # whatever the job says


def test_the_node_itself_is_closed(box):
    own = answers(box, "ip route")[0].split()[2]
    for addr, port in ((NODE4, 80), (NODE6, 81), (own, 80), (own, 7575), ("127.0.0.1", 82)):
        assert answers(box, ask(addr, port)) == ["no"], (addr, port)
    assert answers(box, ask(NODE4, 80, "udp")) == ["no"]


def test_refusals_come_at_once(box):
    _, _, log = ends(box, "\n".join(f"probe_net tcp {a} 80" for a in
                                    (METADATA[0], NODE4, METADATA[2])))
    assert log.splitlines() == ["connect: No route to host"] * 2 + ["connect: Permission denied"]


def test_another_slot_is_closed(box):
    """Not even where the other one listens."""
    server = box.run(box.image, ["sh", "-c", "ip -o addr; exec nc -l -p 80 -e echo hello"],
                     network=NAT)
    box.wait_started(server)
    deadline = time.monotonic() + 10
    while b"eth0" not in box.output(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    addrs = re.findall(r"eth0 +inet6? ([0-9a-f.:]+)/(?:31|126)", box.output(server).decode())
    assert len(addrs) == 2
    for a in addrs:
        assert answers(box, ask(a)) == ["no"]
    box.send(sc.encode(sc.STOP, server, 1))
    box.wait_ended(server)


def test_nobody_comes_in(box, lab):
    server = box.run(box.image, ["sh", "-c", "ip -o -4 addr; exec nc -l -p 80 -e echo hello"],
                     network=NAT)
    box.wait_started(server)
    time.sleep(0.2)
    addr = re.search(r"eth0 +inet ([0-9.]+)", box.output(server).decode()).group(1)
    lab.world.run("ip", "route", "replace", addr, "via", NODE4)
    for ns in (lab.world, lab.node):
        assert ns.run(PROBES / "probe_net", "tcp", addr, "80").stdout == "no\n"
    box.send(sc.encode(sc.STOP, server, 1))
    box.wait_ended(server)


# ---- the job's own list

ONLY = [(f"{OPEN4}/32", "tcp", 80, 80), ("2001:db8:7::/127", "any", 80, 80)]


def test_an_egress_list_is_all_there_is(box):
    got = answers(box, ask(OPEN4), ask(OPEN4, 81), ask(OTHER4), ask(OPEN4, 80, "udp"), ask(OPEN6),
                  egress=[*ONLY, ("2001:db8:7::7/128", "any", 80, 80)])
    assert got == [f"{OPEN4} 80 from {NODE4}", "no", "no", "no", f"{OPEN6} 80 from {NODE6}"]
    assert answers(box, ask(OPEN4), ask(OPEN6), egress=[]) == ["no", "no"]


def test_ports_and_protocols(box):
    got = answers(box, ask(OPEN4), ask(OPEN4, 81), ask(OTHER4, 81), ask(OPEN4, 81, "udp"),
                  egress=[("*", "tcp", 81, 90)])
    assert got == ["no", f"{OPEN4} 81 from {NODE4}", f"{OTHER4} 81 from {NODE4}", "no"]
    got = answers(box, ask(OPEN4, 81, "udp"), ask(OPEN4, 81), egress=[(f"{OPEN4}/32", "any", 0, 0)])
    assert got == [f"{OPEN4} 81 from {NODE4}"] * 2


def test_the_next_run_has_nothing_of_the_last(fresh):
    """The same slot, the same source port, a connection that the last run left in the tables."""
    box = fresh(node__slots=1)
    script = f"probe_net udp {OPEN4} 80 5555"
    assert answers(box, script) == [f"{OPEN4} 80 from {NODE4}"]
    assert answers(box, script, egress=[(f"{OTHER4}/32", "any", 0, 0)]) == ["no"]
    assert answers(box, script) == [f"{OPEN4} 80 from {NODE4}"]


def test_sockets_of_the_last_run_are_ended(lab, fresh):
    """A connection with bytes that nobody takes outlives its process, but not the next run's
    start."""
    box = fresh(node__slots=1)
    server = lab.world.popen(sys.executable, "-c", f"""import socket, time
s = socket.create_server(("{OPEN4}", 99)); print("ready", flush=True)
c = s.accept()[0]; time.sleep(100)""", stdout=subprocess.PIPE)
    server.stdout.readline()

    def connections():
        out = lab.world.run("ss", "-Htn", "state", "established", f"src {OPEN4}:99").stdout
        return len(out.splitlines())
    ends(box, f"head -c 50000000 /dev/zero | timeout 1 nc {OPEN4} 99")
    assert connections() == 1
    ends(box, "true")
    deadline = time.monotonic() + 5
    while connections():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_the_operator_closes_and_opens(lab, fresh):
    box = fresh(sandbox__nat_closed=f"{OTHER4}/32",
                sandbox__nat_open=f"{NODE4}:80/tcp,{LINK_LOCAL}:80,{NODE4}:7575",
                http__listen="127.0.0.1:7575")
    lab.node.serve("tcp", "0.0.0.0", "7575")
    got = answers(box, ask(OPEN4), ask(OTHER4), ask(NODE4), ask(LINK_LOCAL), ask(NODE4, 7575),
                  ask(METADATA[0]))
    assert got[:2] == [f"{OPEN4} 80 from {NODE4}", "no"]
    assert got[2].startswith("0.0.0.0 80 from 10.203.")
    assert got[3:] == [f"{LINK_LOCAL} 80 from {NODE4}", "no", "no"]
    assert answers(box, ask(NODE4), ask(OPEN4), egress=ONLY) == ["no", f"{OPEN4} 80 from {NODE4}"]


# ---- counts

def test_bytes_and_packets_are_counted(box):
    end, _, _ = ends(box, f"head -c 500000 /dev/zero | nc -w 1 {OPEN4} 80 >/dev/null; true")
    rx, tx, rx_packets, tx_packets = (b - a for a, b in zip(end["base"][23:27], end["end"][23:27]))
    assert tx > 1000 and rx > 0 and rx_packets > 2 and tx_packets > 2, (rx, tx)
    end, _, _ = ends(box, "true")
    assert sum(end["end"][23:25]) - sum(end["base"][23:25]) < 2000
    end, _, _ = ends(box, "true", network=0)
    assert end["end"][23:27] == (0, 0, 0, 0)


# ---- what is left

def test_nothing_is_left_after_the_end(lab, fresh):
    before = (lab.links(), lab.tables())
    box = fresh()
    ends(box, "true")
    assert len(lab.links()) == len(before[0]) + 1 and len(lab.tables()) == len(before[1]) + 1
    box.kill(signal.SIGTERM)
    assert (lab.links(), lab.tables()) == before


def test_killed_and_started_again(lab, fresh):
    before = (lab.links(), lab.tables())
    box = fresh()
    ends(box, "true")
    live = box.run(box.image, ["sh", "-c", f"sleep 3; {ask(OPEN4)}; {ask(OTHER4)}"], network=NAT,
                   egress=ONLY)
    box.wait_started(live)
    box.kill()
    box.start()
    box.send(sc.encode(sc.ADOPT))
    assert box.wait("started", live)["numbers"][5] == 1
    box.wait("adopted")
    end = box.wait_ended(live)
    assert box.output(live).decode().splitlines() == [f"{OPEN4} 80 from {NODE4}", "no"]
    assert end["end"][24] > end["base"][24]
    assert answers(box, ask(OPEN4)) == [f"{OPEN4} 80 from {NODE4}"]
    box.kill()
    box.start()
    deadline = time.monotonic() + 10
    while (lab.links(), lab.tables()) != before:
        assert time.monotonic() < deadline, (lab.links(), lab.tables())
        time.sleep(0.05)


def test_others_rules_stay(lab, fresh):
    lab.node.run("nft", "add", "table", "inet", "theirs")
    lab.node.run("nft", "add chain inet theirs c { type filter hook forward priority 5; }")
    text = lab.node.run("nft", "list", "table", "inet", "theirs").stdout
    box = fresh()
    ends(box, "true")
    box.kill(signal.SIGTERM)
    assert lab.node.run("nft", "list", "table", "inet", "theirs").stdout == text
    lab.node.run("nft", "delete", "table", "inet", "theirs")


def test_a_table_that_somebody_removed_comes_back(lab, box):
    ends(box, "true")
    tables = lab.tables()
    lab.node.run("nft", "flush", "ruleset")
    assert answers(box, ask(OPEN4), ask(METADATA[0])) == [f"{OPEN4} 80 from {NODE4}", "no"]
    assert lab.tables() == [t for t in tables if t in lab.tables()] != []


# ---- what a node does not do

def test_not_allowed(fresh):
    box = fresh(sandbox__allow_nat="no")
    run = box.run(box.image, ["true"], network=NAT)
    assert "sandbox.allow_nat" in box.wait("failed", run)["text"]


def test_forwarding_is_switched_on_only_where_that_is_allowed():
    lab = Lab(forward=False)
    boxes = []
    try:
        lab.address(OPEN4 + "/32", OPEN6 + "/128")
        lab.world.serve("tcp", OPEN4, "80", "tcp", OPEN6, "80")

        def forwarding():
            return lab.node.sh("cat /proc/sys/net/ipv4/ip_forward "
                               "/proc/sys/net/ipv6/conf/all/forwarding").stdout.split()
        boxes.append(start(lab))
        run = boxes[0].run(boxes[0].image, ["true"], network=NAT)
        text = boxes[0].wait("failed", run)["text"]
        assert "net.ipv4.ip_forward" in text and "sandbox.nat_forwarding" in text
        assert forwarding() == ["0", "0"]
        boxes.append(start(lab, sandbox__nat_forwarding="yes"))
        assert answers(boxes[1], ask(OPEN4), ask(OPEN6)) == [f"{OPEN4} 80 from {NODE4}",
                                                             f"{OPEN6} 80 from {NODE6}"]
        assert forwarding() == ["1", "1"]
        # Still a router for nobody else.
        lab.world.run("ip", "route", "add", "192.0.2.99/32", "via", NODE4)
        lab.world.run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
        chain = lab.node.run("nft", "list", "chain", "inet", lab.tables()[0], "forward").stdout
        assert "nfproto ipv4 drop" in chain and "nfproto ipv6 drop" in chain
        boxes[1].kill()  # what it switched on is known to the next one
        boxes[1].start()
        assert forwarding() == ["0", "0"]
        assert answers(boxes[1], ask(OPEN4)) == [f"{OPEN4} 80 from {NODE4}"]
        boxes[1].kill(signal.SIGTERM)
        assert forwarding() == ["0", "0"] and lab.links() == [] and lab.tables() == []
    finally:
        for b in boxes:
            b.close()
        lab.close()
