"""Members of real agents: who joins, who is missed, who left, who is kept out."""
import os
import random
import socket

from conftest import wait_for
from members import as_json, cluster, key, key_file, members, metric, states, wait_states


def test_join_die_leave_return(make_node):
    """Three nodes find each other; one is killed and missed, one leaves, both come back."""
    a, b, c = cluster(make_node, 3)
    me = members(a)["n0"]
    assert me["self"] and me["agent"] and me["meta"]["http_port"] == a.port
    assert members(a)["n1"]["meta"]["http_port"] == b.port
    wait_for(lambda: members(a)["n1"].get("rtt_us"), 20)

    c.kill()
    wait_states(a, {"n2": "dead"})
    wait_states(b, {"n2": "dead"})
    assert "member 'n2'" in a.log() and "died" in a.log()

    b.stop()
    wait_states(a, {"n1": "left"})
    assert "filter refused" not in b.log()

    c.start()
    wait_states(c, {"n0": "alive"})
    wait_states(a, {"n2": "alive"})
    assert members(a)["n2"]["incarnation"] > 1, "it must have outbid what was said of its death"
    b.start()
    wait_states(c, {"n1": "alive"})


def test_members_command(make_node):
    a, _ = cluster(make_node, 2)
    table = a.cli("members").stdout.decode()
    assert table.splitlines()[0].split()[:3] == ["MEMBER", "ADDRESS", "STATE"]
    assert "n0" in table and "n1" in table and "alive" in table and "self" in table
    assert a.cli("members", "-q").stdout.decode().split() == ["n0", "n1"]
    listed = as_json(a.cli("members", "-o", "json"))["members"]
    assert [m["name"] for m in listed] == ["n0", "n1"]
    assert metric(a, 'agent_gossip_members{state="alive"}') == 2
    assert metric(a, "agent_gossip_packets_sent_total") > 0


def test_remembers_without_a_seed(make_node):
    """All are stopped hard; those that start again find each other from their files alone."""
    nodes = cluster(make_node, 3)
    for node in nodes:
        wait_for(lambda n=node: (n.data / "db" / "members").exists() and
                 len((n.data / "db" / "members").read_text().splitlines()) == 2, 20)
    for node in nodes:
        node.kill()
        node.settings["gossip.join"] = ""
    for node in nodes:
        node.start()
    for node in nodes:
        wait_states(node, {"n0": "alive", "n1": "alive", "n2": "alive"})


def test_encrypted_and_rotated(make_node, tmp_path):
    """Keys: add, use, remove, with SIGHUP and without losing anybody; a foreign key is kept out."""
    old, new = key(), key(16)
    path = key_file(tmp_path, "keys", old)
    a, b = cluster(make_node, 2, gossip__key_file=path)
    assert "encrypted" in a.log() and "not encrypted" not in a.log()
    stranger = make_node(node__name="stranger", gossip__join=a.settings["gossip.listen"],
                         gossip__key_file=key_file(tmp_path, "foreign", key()))
    plain = make_node(node__name="plain", gossip__join=a.settings["gossip.listen"])

    for keys in ([old, new], [new, old], [new]):
        key_file(tmp_path, "keys", *keys)
        for node in (a, b):
            node.reload()
            wait_for(lambda n=node, k=len(keys): n.log().count("SIGHUP:") > 0, 10)
        before = metric(a, "agent_gossip_packets_received_total")
        wait_for(lambda x=before: metric(a, "agent_gossip_packets_received_total") >= x + 4, 20)
        assert states(a) == {"n0": "alive", "n1": "alive"}
    assert states(stranger) == {"stranger": "alive"} and states(plain) == {"plain": "alive"}
    assert metric(a, 'agent_gossip_dropped_total{reason="key"}') > 0

    key_file(tmp_path, "keys", "nonsense")
    a.reload()
    wait_for(lambda: "keys stay as they were" in a.log(), 10)
    assert states(a)["n1"] == "alive"


def test_labels_keep_clusters_apart(make_node):
    a = make_node(node__name="a", gossip__label="blue")
    b = make_node(node__name="b", gossip__label="green", gossip__join=a.settings["gossip.listen"])
    c = make_node(node__name="c", gossip__label="blue", gossip__join=a.settings["gossip.listen"])
    wait_states(a, {"c": "alive"})
    wait_for(lambda: metric(a, 'agent_gossip_dropped_total{reason="label"}') > 0, 20)
    assert set(states(a)) == {"a", "c"} and set(states(b)) == {"b"} and set(states(c)) == {"a", "c"}


def test_two_of_one_name(make_node):
    a = make_node(node__name="a")
    join = a.settings["gossip.listen"]
    first = make_node(node__name="same", gossip__join=join)
    wait_states(a, {"same": "alive"})
    make_node(node__name="same", gossip__join=join)
    wait_for(lambda: "two nodes use the name 'same'" in a.log(), 20)
    assert members(a)["same"]["address"] == first.settings["gossip.listen"]


def test_garbage_is_counted(make_node):
    """Noise on both sockets: counted, logged at a bounded rate, and nobody is lost."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(2**32)))
    print(f"TEST_SEED={seed}")
    rng = random.Random(seed)
    a, _ = cluster(make_node, 2)
    host, port = a.settings["gossip.listen"].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for i in range(3000):
            size = rng.choice([0, 1, 2, 30, 200, 1400, 9000])
            head = bytes([rng.randrange(16)]) if i % 2 else b""
            udp.sendto(head + rng.randbytes(size), (host, int(port)))
    for _ in range(100):
        with socket.create_connection((host, int(port))) as tcp:
            try:
                tcp.sendall(bytes([rng.choice([0, 6, 8, 9, 10, 244, 71])]) + rng.randbytes(300))
            except ConnectionError:
                pass
    # Some that begin, and say no more.
    idle = [socket.create_connection((host, int(port))) for _ in range(150)]
    assert states(a) == {"n0": "alive", "n1": "alive"}
    drops = sum(int(line.rsplit(" ", 1)[1]) for line in
                a.http("GET", "/metrics").body.decode().splitlines()
                if line.startswith("agent_gossip_dropped"))
    assert drops > 1000
    assert a.log().count("were dropped") <= 10
    for s in idle:
        s.close()
    before = metric(a, "agent_gossip_packets_received_total")
    wait_for(lambda: metric(a, "agent_gossip_packets_received_total") > before + 2, 20)
    assert states(a)["n1"] == "alive"


def test_refuses_to_listen_openly(make_node):
    node = make_node(start=False, gossip__listen="0.0.0.0:0")
    node.start(wait=False)
    assert node.process.wait(20) == 2
    assert "gossip.key_file" in node.log()


def test_bad_key_file(make_node, tmp_path):
    node = make_node(start=False, gossip__key_file=key_file(tmp_path, "keys", "AAEC"))
    node.start(wait=False)
    wait_for(lambda: "is not a key" in node.log(), 20)
