"""The API of a running node: every route, every kind of error, what clients rely on."""
import concurrent.futures
import hashlib
import http.client
import json
import os
import re
import threading
import time
import urllib.parse
import uuid

import pytest

from conftest import ENDED, proc_status, wait_for


def problem(answer, status, code):
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["code"] == code, document
    assert document["title"] and document["detail"]
    assert document["request_id"] == answer.headers["X-Request-Id"]
    return document


@pytest.fixture(scope="module")
def api(shared_node, image):
    return shared_node.http


@pytest.fixture
def job(api, image):
    """Registers a job under a name of its own: job({...}); it goes with the test."""
    names = []

    def make(document=None, name=None):
        name = name or f"job-{uuid.uuid4().hex[:8]}"
        answer = api("PUT", f"/v1/jobs/{name}", {"image": image, **(document or {})})
        assert answer.status == 201, answer.body
        names.append(name)
        return name

    yield make
    for name in names:
        assert api("DELETE", f"/v1/jobs/{name}").status in (204, 404)


def shell(script):
    return {"entrypoint": [], "command": ["/bin/sh", "-c", script]}


def submit(api, name, body=b"", wait=30, headers=None):
    """Submits with Prefer: wait; the answer."""
    return api("POST", f"/v1/jobs/{name}/runs", body,
               {"Prefer": f"wait={wait}", **(headers or {})}, timeout=wait + 15)


# -- the door

PLAIN = ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/status", "/v1/jobs",
         "/v1/runs", "/v1/nodes", "/v1/images", "/ui/app.js", "/ui/style.css"]


@pytest.mark.parametrize("path", PLAIN)
def test_plain_gets(api, path):
    answer = api("GET", path)
    assert answer.status == 200
    assert answer.headers["Server"].startswith("agent/")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["Date"])
    assert answer.headers["X-Request-Id"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if path.startswith("/v1"):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Type"] == "application/json"
        answer.json()
    head = api("HEAD", path)
    assert head.status == 200 and head.body == b""
    assert head.headers["Content-Type"] == answer.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) > 0


def test_methods(api):
    answer = api("PATCH", "/v1/runs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS"
    answer = api("OPTIONS", "/v1/jobs/x")
    assert answer.status == 204
    assert answer.headers["Allow"] == "GET, HEAD, PUT, DELETE, OPTIONS"
    problem(api("GET", "/v1/nothing"), 404, "not_found")
    problem(api("GET", "/v1/jobs/%2e%2e"), 400, "bad_request")
    problem(api("GET", "/v1/runs?stat=failed"), 400, "bad_request")


def test_request_ids(api):
    assert api("GET", "/healthz", headers={"X-Request-Id": "my/id-1"}).headers["X-Request-Id"] \
        == "my/id-1"
    assert api("GET", "/healthz", headers={"X-Request-Id": "no\tgood"}).headers["X-Request-Id"] \
        != "no\tgood"
    ids = {api("GET", "/healthz").headers["X-Request-Id"] for _ in range(20)}
    assert len(ids) == 20


def test_openapi_describes_what_answers(api):
    document = api("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            concrete = re.sub(r"\{\w+\}", "01JDCB0000000000000000000A", path)
            if path == "/v1/events" or path.endswith("/drain") or path.endswith("/prune"):
                continue
            answer = api(method.upper(), concrete)
            assert answer.status != 405, path
            documented = operation["responses"]
            assert str(answer.status) in documented, (method, path, answer.status)
            if answer.status >= 400:
                known = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
                assert answer.json()["code"] in known


TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
         "integer": int, "number": (int, float)}


def mismatches(schema, value, root, where="$"):
    """Where a value is not what its schema says: the part of JSON Schema that openapi.json uses,
    and a failure when it uses more. Members that the schema does not name are reported, too."""
    if "$ref" in schema:
        return mismatches(root["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], value,
                          root, where)
    unknown = set(schema) - {"type", "properties", "required", "items", "enum", "oneOf", "pattern",
                             "description", "examples", "default", "format", "minimum", "maximum",
                             "exclusiveMinimum", "minItems", "maxItems", "additionalProperties",
                             "maxLength", "minLength", "contentEncoding", "contentMediaType"}
    assert not unknown, unknown
    if "oneOf" in schema:
        each = [mismatches(s, value, root, where) for s in schema["oneOf"]]
        return [] if sum(not e for e in each) == 1 else min(each, key=len)
    out = []
    kinds = schema.get("type", list(TYPES))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not any(isinstance(value, TYPES[k]) and (k == "boolean" or not isinstance(value, bool))
               for k in kinds):
        return [f"{where}: {value!r} is not {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        out.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        out.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, str) and schema.get("format") == "date-time":
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", value):
            out.append(f"{where}: {value!r} is no time")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            out.append(f"{where}: {value} is out of range")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            out.append(f"{where}: {len(value)} items")
        for i, item in enumerate(value):
            out += mismatches(schema.get("items", {}), item, root, f"{where}[{i}]")
    if isinstance(value, dict):
        out += [f"{where}: no '{name}'" for name in schema.get("required", ()) if name not in value]
        named, rest = schema.get("properties", {}), schema.get("additionalProperties")
        for name, member in value.items():
            if name in named:
                out += mismatches(named[name], member, root, f"{where}.{name}")
            elif isinstance(rest, dict):
                out += mismatches(rest, member, root, f"{where}.{name}")
            elif named or rest is False:
                out.append(f"{where}: '{name}' is not in the schema")
    return out


def test_answers_match_their_schemas(api, job, image):
    root = api("GET", "/openapi.json").json()
    name = job({**shell("echo x; sleep 0.1"), "env": {"A": "b"}, "labels": {"team": "x"},
                "retries": {"max": 1}, "concurrency": 2})
    run = submit(api, name).json()
    failed = submit(api, job(shell("exit 3"))).json()
    killed = submit(api, job(shell("kill -9 $$"))).json()
    submit(api, job({"command": ["/no/such/program"], "entrypoint": []}))
    concrete = {"{job}": name, "{id}": run["id"], "{node}": api("GET", "/v1/nodes").json()
                ["nodes"][0]["name"]}
    looked_at, wrong = 0, []
    for path, operations in root["paths"].items():
        documented = operations.get("get", {}).get("responses", {}).get("200", {})
        schema = documented.get("content", {}).get("application/json", {}).get("schema")
        if schema is None or path == "/openapi.json":
            continue
        for key, value in concrete.items():
            path = path.replace(key, value)
        answer = api("GET", path)
        if path == "/v1/tokens" and answer.json().get("code") == "no_tokens":
            continue  # tests/system/test_tokens.py has nodes that ask for one
        assert answer.status == 200, path
        wrong += [f"{path}: {m}" for m in mismatches(schema, answer.json(), root)]
        looked_at += 1
    for one in failed, killed:
        wrong += mismatches({"$ref": "#/components/schemas/Run"}, one, root)
    for answer in api("GET", "/v1/runs/x"), api("PUT", "/v1/jobs/x", {"imag": 1}):
        wrong += mismatches({"$ref": "#/components/schemas/Problem"}, answer.json(), root)
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert looked_at >= 10


def test_dashboard(api):
    answer = api("GET", "/")
    page = answer.body.decode()
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    refs = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "/ui/app.js" in refs
    for ref in refs:
        assert ref.startswith("/"), "the page loads from itself only"
        assert api("GET", ref).status == 200, ref
    assert "<script>" not in page and "style=" not in page and "onclick" not in page
    again = api("GET", "/", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304 and again.body == b""


def test_metrics(api, job):
    name = job(shell("true"))
    run = submit(api, name).json()
    text = api("GET", "/metrics").body.decode()
    assert api("GET", "/metrics").headers["Content-Type"] == \
        "text/plain; version=0.0.4; charset=utf-8"
    assert run["id"] not in text
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    assert len(families) == len({f for f, _ in families}), "a family is written twice"
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(
            r'[a-z_:]+[a-z0-9_:]*(\{([a-z_]+="[^"]*",?)*\})? ([-+0-9.eE]+|[-+]?Inf|NaN)',
            line), line
    assert re.search(r'^agent_runs_total\{.*state="succeeded".*\} \d+', text, re.M)
    assert re.search(r"^agent_http_connections \d+$", text, re.M)


# -- jobs

def test_job_life(api, image):
    path = f"/v1/jobs/life-{uuid.uuid4().hex[:8]}"
    first = api("PUT", path, {"image": image, "memory": "64MiB", "timeout": "30s"})
    assert first.status == 201
    assert first.headers["Location"] == path
    assert first.headers["ETag"] == '"1"'
    document = first.json()
    assert document["revision"] == 1 and document["name"] == path.rsplit("/", 1)[1]
    same = api("PUT", path, {"image": image, "memory": 64 * 1024 * 1024, "timeout": 30})
    assert same.status == 200 and same.json()["revision"] == 1
    changed = api("PUT", path, {"image": image, "memory": "128MiB"})
    assert changed.status == 200 and changed.json()["revision"] == 2
    problem(api("PUT", path, {"image": image}, {"If-Match": '"1"'}), 412, "precondition_failed")
    assert api("PUT", path, {"image": image}, {"If-Match": '"2"'}).json()["revision"] == 3
    assert api("GET", path).json()["revision"] == 3
    old = api("GET", path + "?revision=1")
    assert old.json()["revision"] == 1
    # What it answers can be put again, as it is.
    normal = {k: v for k, v in api("GET", path).json().items()
              if k not in ("revision", "created_at", "updated_at", "image_digest")}
    assert api("PUT", path, normal).json()["revision"] == 3
    assert api("DELETE", path).status == 204
    problem(api("GET", path), 404, "unknown_job")
    problem(api("DELETE", path), 404, "unknown_job")


def test_job_list(api, job):
    names = sorted(job() for _ in range(3))
    found, after = [], ""
    while True:
        page = api("GET", f"/v1/jobs?limit=1&after={after}").json()
        assert len(page["jobs"]) <= 1
        found += [j["name"] for j in page["jobs"]]
        if page["next"] is None:
            break
        after = urllib.parse.quote(page["next"])
    assert found == sorted(found)
    assert [n for n in found if n in names] == names


def test_malformed_json_has_a_position(api):
    answer = api("PUT", "/v1/jobs/bad", b'{"image": "a:1",\n "memory": }')
    assert "line 2" in problem(answer, 400, "bad_json")["detail"]
    for text in b"", b"[1]", b'{"a":1}x', b'{"image":"a","image":"b"}', b"\xff", b'{"a":\0}', \
            b"[" * 5000:
        assert api("PUT", "/v1/jobs/bad", text).status in (400, 422), text[:20]


def test_each_wrong_field_is_named(api, image):
    document = {"image": image, "memry": "1GiB", "timeout": "soon", "cpus": -1, "env": {"A=B": "x"},
                "command": ["a", 5], "network": "wifi", "retries": {"max": 1000}}
    errors = problem(api("PUT", "/v1/jobs/bad", document), 422, "invalid_document")["errors"]
    fields = {e["field"] for e in errors}
    for wanted in "memry", "timeout", "cpus", "network", "retries.max":
        assert wanted in fields, fields
    assert any(f.startswith("env") for f in fields) and any(f.startswith("command") for f in fields)
    memory = next(e for e in errors if e["field"] == "memry")
    assert "memory" in memory["detail"]
    other = api("PUT", "/v1/jobs/bad", {"image": image, "name": "good"})
    assert problem(other, 422, "invalid_document")["errors"][0]["field"] == "name"
    assert api("GET", "/v1/jobs/bad").status == 404


def test_other_types_and_sizes(api):
    answer = api("PUT", "/v1/jobs/bad", b"image: x", {"Content-Type": "application/yaml"})
    problem(answer, 415, "unsupported_media_type")
    problem(api("PUT", "/v1/jobs/bad", b" " * 300000), 413, "body_too_large")
    problem(api("PUT", "/v1/jobs/bad", {"image": "x"}, {"If-Match": "*"}), 400, "bad_request")


# -- runs

def test_submit_and_read(api, job, shared_node):
    name = job(shell("cat; echo to the log >&2"))
    payload = os.urandom(300000)
    answer = api("POST", f"/v1/jobs/{name}/runs", payload)
    assert answer.status == 202
    run = answer.json()
    assert answer.headers["Location"] == f"/v1/runs/{run['id']}"
    assert run["job"] == name and run["state"] not in ("succeeded", "failed")
    assert run["payload_bytes"] == len(payload)
    run = shared_node.wait_run(run["id"])
    assert (run["state"], run["reason"], run["exit_code"]) == ("succeeded", "exit", 0)
    assert run["output_bytes"] == len(payload)
    base = f"/v1/runs/{run['id']}"
    output = api("GET", base + "/output")
    assert output.body == payload
    assert output.headers["Content-Type"] == "application/octet-stream"
    assert int(output.headers["Content-Length"]) == len(payload)
    part = api("GET", base + "/output", headers={"Range": "bytes=1000-1999"})
    assert part.status == 206 and part.body == payload[1000:2000]
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(payload)}"
    assert api("GET", base + "/output", headers={"Range": "bytes=-10"}).body == payload[-10:]
    problem(api("GET", base + "/output", headers={"Range": f"bytes={len(payload)}-"}), 416,
            "range_not_satisfiable")
    assert api("GET", base + "/output?follow=1").body == payload
    assert api("GET", base + "/logs").body == b"to the log\n"
    assert api("GET", base + "/logs?stream=stdout").body == payload
    samples = api("GET", base + "/samples").json()
    assert samples["interval_seconds"] > 0 and isinstance(samples["samples"], list)
    assert "basis" in api("GET", base + "/placement").json()


def test_errors_of_runs(api, job):
    missing = "/v1/runs/01JDCB0000000000000000000A"
    for path in "", "/output", "/logs", "/samples", "/placement":
        problem(api("GET", missing + path), 404, "unknown_run")
    for path in "/cancel", "/retry":
        problem(api("POST", missing + path), 404, "unknown_run")
    problem(api("GET", "/v1/runs/not-an-id"), 404, "unknown_run")
    problem(api("POST", "/v1/jobs/nobody/runs", b"x"), 404, "unknown_job")
    problem(api("POST", "/v1/jobs/nobody/runs", b"x" * 1000000), 404, "unknown_job")
    answer = api("POST", "/v1/runs", {"image": "no/such:1"})
    problem(answer, 422, "unknown_image")
    problem(api("POST", "/v1/runs", b"{"), 400, "bad_json")
    problem(api("POST", "/v1/runs", {"command": ["x"]}), 422, "invalid_document")
    name = job()
    long_key = {"Idempotency-Key": "k" * 256}
    problem(api("POST", f"/v1/jobs/{name}/runs", b"", long_key), 400, "bad_request")


def test_one_offs(api, image):
    document = {"image": image, **shell("cat"), "payload": "hello"}
    answer = api("POST", "/v1/runs", document, {"Prefer": "wait=30"})
    assert answer.status == 200, answer.body
    run = answer.json()
    assert run["job"] is None and run["state"] == "succeeded"
    assert api("GET", f"/v1/runs/{run['id']}/output").body == b"hello"
    spec = urllib.parse.quote(json.dumps({"image": image, **shell("sha256sum")}))
    payload = os.urandom(2000000)
    answer = api("POST", f"/v1/runs?spec={spec}", payload, {"Prefer": "wait=30"})
    assert answer.status == 200, answer.body
    output = api("GET", f"/v1/runs/{answer.json()['id']}/output").body
    assert output.split()[0].decode() == hashlib.sha256(payload).hexdigest()


def test_prefer_wait(api, job):
    quick, slow = job(shell("true")), job(shell("sleep 30"))
    answer = submit(api, quick, wait=20)
    assert answer.status == 200 and answer.json()["state"] == "succeeded"
    assert answer.headers["Preference-Applied"] == "wait=20"
    start = time.monotonic()
    answer = submit(api, slow, wait=1)
    assert answer.status == 202 and answer.json()["state"] not in ENDED
    assert 0.9 < time.monotonic() - start < 5
    assert api("POST", f"/v1/runs/{answer.json()['id']}/cancel").status == 200
    wait_for(lambda: api("GET", f"/v1/runs/{answer.json()['id']}").json()["state"] == "cancelled")


def test_idempotency(api, job):
    name = job(shell("cat"))
    path, key = f"/v1/jobs/{name}/runs", {"Idempotency-Key": uuid.uuid4().hex}
    first = api("POST", path, b"payload", key)
    assert first.status == 202 and "Idempotency-Replayed" not in first.headers
    again = api("POST", path, b"payload", {**key, "Prefer": "wait=30"})
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.status == 200 and again.json()["state"] == "succeeded"
    problem(api("POST", path, b"another", key), 422, "idempotency_key_reused")
    assert api("POST", path, b"payload").json()["id"] != first.json()["id"]
    # Twenty at once: one run.
    key = {"Idempotency-Key": uuid.uuid4().hex}
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: api("POST", path, b"race", key), range(20)))
    assert {a.status for a in answers} <= {202, 200, 409}
    assert len({a.json()["id"] for a in answers if a.status != 409}) == 1


def test_list_and_filters(api, job, shared_node):
    name = job(shell('test "$(cat)" != bad'))
    ids = [submit(api, name, body).json()["id"] for body in (b"a", b"bad", b"b")]
    page = api("GET", f"/v1/runs?job={name}").json()
    assert [r["id"] for r in page["runs"]] == ids[::-1], "the newest first"
    assert page["next"] is None
    failed = api("GET", f"/v1/runs?job={name}&state=failed,lost").json()["runs"]
    assert [r["id"] for r in failed] == [ids[1]]
    found, after = [], None
    while True:
        query = f"job={name}&limit=1" + (f"&after={after}" if after else "")
        page = api("GET", "/v1/runs?" + query).json()
        found += [r["id"] for r in page["runs"]]
        after = page["next"]
        if after is None:
            break
    assert found == ids[::-1]
    for query in "limit=0", "limit=1001", "limit=x", "state=happy", "after=x":
        problem(api("GET", "/v1/runs?" + query), 400, "bad_request")


def test_cancel_and_retry(api, job, shared_node):
    name = job(shell("sleep 60"))
    run = api("POST", f"/v1/jobs/{name}/runs").json()
    path = f"/v1/runs/{run['id']}"
    wait_for(lambda: api("GET", path).json()["state"] == "running")
    assert api("POST", path + "/cancel").status == 200
    assert shared_node.wait_run(run["id"])["state"] == "cancelled"
    problem(api("POST", path + "/cancel"), 409, "conflict")
    failing = job(shell("echo attempt $AGENT_ATTEMPT; test $AGENT_ATTEMPT = 2"))
    run = submit(api, failing).json()
    assert run["state"] == "failed" and run["attempt"] == 1
    path = f"/v1/runs/{run['id']}"
    assert api("POST", path + "/retry").status == 202
    wait_for(lambda: api("GET", path).json()["state"] == "succeeded")
    assert api("GET", path).json()["attempt"] == 2
    assert api("GET", path + "/output").body == b"attempt 2\n"
    assert api("GET", path + "/output?attempt=1").body == b"attempt 1\n"
    problem(api("GET", path + "/output?attempt=3"), 404, "not_found")
    problem(api("POST", path + "/retry"), 409, "conflict")


# -- following

def test_follow_sees_lines_as_they_come(api, job, shared_node):
    name = job(shell("for i in 1 2 3 4; do echo line $i; sleep 0.4; done"))
    run = api("POST", f"/v1/jobs/{name}/runs").json()
    connection = http.client.HTTPConnection("127.0.0.1", shared_node.port, timeout=30)
    connection.request("GET", f"/v1/runs/{run['id']}/output?follow=1")
    answer = connection.getresponse()
    assert answer.status == 200
    times = []
    for i in range(1, 5):
        assert answer.readline() == f"line {i}\n".encode()
        times.append(time.monotonic())
    assert answer.read() == b""
    connection.close()
    assert times[-1] - times[0] > 0.8, "they came as they were written"
    assert api("GET", f"/v1/runs/{run['id']}").json()["state"] == "succeeded"


def test_logs(api, job):
    name = job(shell("for i in 1 2 3; do echo out $i; sleep 0.1; echo log $i >&2; sleep 0.1; done"))
    base = f"/v1/runs/{submit(api, name).json()['id']}/logs"
    assert api("GET", base).body == b"log 1\nlog 2\nlog 3\n"
    assert api("GET", base + "?tail=1").body == b"log 3\n"
    assert api("GET", base + "?tail=0").body == b""
    assert api("GET", base + "?since=1h").body == b"log 1\nlog 2\nlog 3\n"
    assert api("GET", base + "?since=2100-01-01T00:00:00Z").body == b""
    both = api("GET", base + "?stream=both").body
    assert both == b"out 1\nlog 1\nout 2\nlog 2\nout 3\nlog 3\n"
    assert api("GET", base + "?stream=both&tail=2").body == b"out 3\nlog 3\n"
    for query in "stream=x", "tail=-1", "since=whenever", "follow=2":
        problem(api("GET", base + "?" + query), 400, "bad_request")


def test_events(api, job, shared_node):
    name = job(shell("true"))
    seen, ready = [], threading.Event()
    connection = http.client.HTTPConnection("127.0.0.1", shared_node.port, timeout=30)

    def read():
        connection.request("GET", "/v1/events")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        ready.set()
        while True:
            line = answer.readline()
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if not event["type"].startswith("agent.run."):
                    continue
                assert event["specversion"] == "1.0" and event["source"].startswith("/v1/nodes/")
                assert event["type"] == "agent.run." + event["data"]["state"]
                seen.append(event["data"])
                if seen[-1]["job"] == name and seen[-1]["state"] in ENDED:
                    return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert ready.wait(10)
    run = submit(api, name).json()
    reader.join(20)
    assert not reader.is_alive()
    connection.close()
    states = [r["state"] for r in seen if r["id"] == run["id"]]
    assert states[-1] == "succeeded" and "running" in states
    order = ["queued", "placed", "preparing", "running", "succeeded"]
    assert states == sorted(states, key=order.index)


# -- the node

def test_nodes(api):
    nodes = api("GET", "/v1/nodes").json()["nodes"]
    assert len(nodes) == 1
    me = nodes[0]
    assert me["cpus"] >= 1 and me["memory_bytes"] > 0 and me["state"] == "alive"
    assert isinstance(me["capabilities"], list)
    assert api("GET", f"/v1/nodes/{me['name']}").json()["id"] == me["id"]
    problem(api("GET", "/v1/nodes/stranger"), 404, "unknown_node")
    status = api("GET", "/v1/status").json()
    for key in "cluster", "nodes", "jobs", "runs", "failures", "warnings":
        assert key in status
    assert status["nodes"][0]["name"] == me["name"]


def test_drain(make_node):
    node = make_node()
    me = node.http("GET", "/v1/nodes").json()["nodes"][0]["name"]
    path = f"/v1/nodes/{me}/drain"
    assert node.http("POST", path).json()["state"] == "draining"
    answer = node.http("POST", "/v1/runs", {"image": "a:1"})
    problem(answer, 503, "draining")
    assert int(answer.headers["Retry-After"]) > 0
    problem(node.http("GET", "/readyz"), 503, "draining")
    assert node.http("POST", path, {"draining": False}).json()["state"] == "alive"
    assert node.http("GET", "/readyz").status == 200
    problem(node.http("POST", path, {"drainig": False}), 422, "invalid_document")


def test_queue_full(make_node, image_tar):
    node = make_node(store__max_queued="2", node__slots="1")
    node.cli("push", image_tar)
    document = {"image": "lab/busybox:1", "command": ["/bin/sleep", "60"]}
    answers = [node.http("POST", "/v1/runs", document) for _ in range(6)]
    refused = [a for a in answers if a.status == 503]
    assert refused and len(refused) < 6
    for answer in refused:
        problem(answer, 503, "queue_full")
        assert int(answer.headers["Retry-After"]) > 0
    # Live runs outlive their node: none may be left.
    accepted = [a.json()["id"] for a in answers if a.status == 202]
    for run_id in accepted:
        assert node.http("POST", f"/v1/runs/{run_id}/cancel").status == 200
    for run_id in accepted:
        assert node.wait_run(run_id)["state"] == "cancelled"


def test_images(make_node, image_tar):
    node = make_node()
    assert node.http("GET", "/v1/images").json()["images"] == []
    node.cli("push", image_tar)
    images = node.http("GET", "/v1/images").json()["images"]
    assert [(i["repository"], i["tag"]) for i in images] == [("lab/busybox", "1")]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", images[0]["digest"])
    problem(node.http("DELETE", "/v1/images/no/such"), 422, "unknown_image")
    assert node.http("POST", "/v1/images/prune").status == 200
    assert node.http("DELETE", "/v1/images/lab/busybox?tag=1").status == 200
    assert node.http("GET", "/v1/images").json()["images"] == []
    problem(node.http("POST", "/v1/runs", {"image": "lab/busybox:1"}), 422, "unknown_image")


# -- sizes

def agent_rss_kib(node):
    return int(proc_status(node.agent_pid())["VmRSS"].split()[0])


def test_large_payload_and_output_stay_out_of_memory(make_node, image_tar, record_property):
    """256 MiB in, 256 MiB out: the agent's memory does not follow."""
    size, piece = 256 * 1024 * 1024, os.urandom(1024 * 1024)
    node = make_node()
    node.cli("push", image_tar)
    document = {"image": "lab/busybox:1", "command": ["/bin/cat"], "memory": "64MiB"}
    assert node.http("PUT", "/v1/jobs/cat", document).status == 201
    peak = [agent_rss_kib(node)]
    before, stop = peak[0], threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak.append(agent_rss_kib(node))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=100)
        connection.request("POST", "/v1/jobs/cat/runs", (piece for _ in range(size // len(piece))),
                           {"Content-Length": str(size), "Prefer": "wait=90"})
        run = json.loads(connection.getresponse().read())
        assert run["state"] == "succeeded", run
        connection.request("GET", f"/v1/runs/{run['id']}/output")
        answer, got, want = connection.getresponse(), hashlib.sha256(), hashlib.sha256()
        while chunk := answer.read(1024 * 1024):
            got.update(chunk)
        for _ in range(size // len(piece)):
            want.update(piece)
        connection.close()
    finally:
        stop.set()
        watcher.join()
    assert got.digest() == want.digest()
    print(f"RSS {before} KiB, at most {max(peak)} KiB")
    record_property("rss_kib_peak", max(peak))
    assert max(peak) - before < 32 * 1024
