"""The shared table among real agents: a row written on one appears on all, a node's own rows go
with it, what is the cluster's comes from the disk."""
import json

from conftest import free_port, wait_for


def join(make_node, n):
    """n agents; each but the first one joins the first."""
    first = f"127.0.0.1:{free_port()}"
    nodes = [make_node(node__name="t0", gossip__listen=first, gossip__profile="local")]
    nodes += [make_node(node__name=f"t{i}", gossip__listen=f"127.0.0.1:{free_port()}",
                        gossip__join=first, gossip__profile="local") for i in range(1, n)]
    return nodes


def rows(node, kind=None):
    target = "/v1/table?limit=1000" + (f"&type={kind}" if kind else "")
    answer = node.http("GET", target)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["rows"]


def owners(node, kind):
    return {r["owner"] for r in rows(node, kind)}


def keys(node, kind):
    return {r["key"] for r in rows(node, kind)}


def put_job(node, name, body):
    answer = node.http("PUT", f"/v1/jobs/{name}", json.dumps(body).encode(),
                       {"Content-Type": "application/json"})
    assert answer.status in (200, 201), answer.body


JOB = {"image": "lab/busybox:1", "command": ["true"]}


def test_three_agents(make_node):
    a, b, c = join(make_node, 3)
    everybody = {"t0", "t1", "t2"}
    for node in a, b, c:
        def all_known(node=node):
            """everybody's facts and load are in the table"""
            return owners(node, "capability") == everybody and owners(node, "load") == everybody
        wait_for(all_known)

    # Written on one, seen on all; with its writer.
    put_job(a, "resize", JOB)
    for node in b, c:
        wait_for(lambda node=node: "resize" in keys(node, "job"))
        row = [r for r in rows(node, "job") if r["key"] == "resize"][0]
        assert row["owner"] == "" and row["writer"] == "t0"

    # The command line says the same.
    out = b.cli("table", "-t", "job").stdout.decode()
    assert "resize" in out and "cluster" in out
    assert json.loads(b.cli("table", "-o", "json", "-n", "2").stdout)["rows"]

    # One dies: a document that it misses, a row of its own that goes.
    c.kill()
    put_job(b, "crop", JOB)
    wait_for(lambda: "crop" in keys(a, "job"))

    def gone():
        """the dead node's own rows are gone"""
        return "t2" not in owners(a, "capability") and "t2" not in owners(b, "load")
    wait_for(gone, seconds=120)

    # It comes back, has from its disk what it had, and learns the rest.
    c.start()
    assert "resize" in keys(c, "job")
    wait_for(lambda: "crop" in keys(c, "job"))
    wait_for(lambda: owners(a, "capability") == everybody)


def test_kept_without_others(make_node):
    """A node that starts alone has the cluster's rows from its disk."""
    a, b = join(make_node, 2)
    put_job(a, "resize", JOB)
    wait_for(lambda: "resize" in keys(b, "job"))
    a.stop()
    b.stop()
    b.start()
    assert "resize" in keys(b, "job")
    assert json.loads(b.http("GET", "/v1/table").body)["counts"]["job"] == 1


def test_limits_of_the_view(node):
    assert node.http("GET", "/v1/table?type=nonsense").status == 400
    assert node.http("GET", "/v1/table?after=nonsense").status == 400
    assert node.http("GET", "/v1/table?limit=0").status == 400
    put_job(node, "j1", JOB)
    put_job(node, "j2", JOB)
    page = json.loads(node.http("GET", "/v1/table?type=job&limit=1").body)
    assert [r["key"] for r in page["rows"]] == ["j1"]
    rest = json.loads(node.http("GET", f"/v1/table?type=job&limit=1&after={page['next']}").body)
    assert [r["key"] for r in rest["rows"]] == ["j2"] and "next" not in rest
    text = node.http("GET", "/metrics").body.decode()
    assert 'agent_table_rows{type="job"} 2' in text
