"""Call-backs out: real receivers on loopback that take, refuse, hang, redirect and go away."""
import base64
import hashlib
import hmac
import http.server
import json
import sqlite3
import ssl
import subprocess
import threading
import time

import pytest

from conftest import ENDED, wait_for
from members import cluster

IMAGE = "lab/busybox:1"
KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """Answers what the test says, and keeps what came: (path, headers, body)."""

    def __init__(self, answers=(), tls=None):
        self.came, self.answers, self.hang = [], list(answers), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.came.append((self.path, self.headers, body))
                answer = outer.answers.pop(0) if outer.answers else 204
                if answer == "hang":
                    outer.hang.wait(60)
                    return
                status, headers, text = answer if isinstance(answer, tuple) else (answer, {}, b"")
                self.send_response(status)
                for k, v in headers.items():
                    self.send_header(k, v)
                if status != 204:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                try:
                    self.wfile.write(text)
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()

    def url(self, path="/cb", host="127.0.0.1", scheme="http"):
        return f"{scheme}://{host}:{self.port}{path}"

    def wait(self, n, seconds=30):
        def enough():
            """the receiver was called often enough"""
            return len(self.came) >= n
        wait_for(enough, seconds)
        return self.came


@pytest.fixture
def receiver():
    made = []

    def make(*answers, **kw):
        made.append(Receiver(answers, **kw))
        return made[-1]
    yield make
    for r in made:
        r.close()


@pytest.fixture
def caller(make_node, image_tar):
    def make(**settings):
        node = make_node(**{"callbacks__allow_private": "yes", "callbacks__timeout": "2s",
                            **settings})
        node.cli("push", image_tar)
        return node
    return make


def put(node, name, *callbacks, script="true", status=(200, 201)):
    r = node.http("PUT", f"/v1/jobs/{name}", {"image": IMAGE, "command": ["sh", "-c", script],
                                              "callbacks": list(callbacks)})
    assert r.status in status, r.body
    return r.json()


def run(node, job, headers=None, want="succeeded"):
    r = node.http("POST", f"/v1/jobs/{job}/runs", b"", {"Prefer": "wait=30", **(headers or {})})
    assert r.status == 200, r.body
    assert r.json()["state"] == want
    return r.json()


def listed(node, **query):
    text = "&".join(f"{k}={v}" for k, v in query.items())
    r = node.http("GET", f"/v1/callbacks?{text}")
    assert r.status == 200, r.body
    return r.json()["callbacks"]


def state_of(node, run_id):
    return next((c for c in listed(node) if c["run"] == run_id), None)


def wait_state(node, run_id, state, seconds=30):
    def there():
        """the call-back is in that state"""
        c = state_of(node, run_id)
        return c if c and c["state"] == state else None
    return wait_for(there, seconds)


def test_a_signed_cloudevent_is_delivered(caller, receiver):
    node, r = caller(), receiver((200, {}, b"x" * 1000))
    node.cli("secret", "set", "cb", stdin=SECRET.encode())
    put(node, "report", {"url": r.url("/hook?a=b"), "secret": "cb"})
    record = run(node, "report")
    ((path, headers, body),) = r.wait(1)
    assert path == "/hook?a=b"
    assert headers["Content-Type"] == "application/cloudevents+json"
    event = json.loads(body)
    assert event["specversion"] == "1.0" and event["type"] == "agent.run.succeeded"
    assert event["subject"] == record["id"] and event["job"] == "report"
    assert event["data"]["state"] == "succeeded" and event["data"]["id"] == record["id"]
    assert event["id"] == headers["webhook-id"] == f"{record['id']}.1.0"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(KEY, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert headers["X-Call-Id"] == record["id"] and headers["X-Function-Status"] == "200"
    assert float(headers["X-Duration-Seconds"]) >= 0
    c = wait_state(node, record["id"], "delivered")
    assert (c["tries"], c["status"], c["signed"], c["next_at"]) == (1, 200, True, None)
    metrics = node.http("GET", "/metrics").body.decode()
    assert 'agent_callbacks_total{state="delivered"} 1' in metrics
    assert 'agent_callback_answers_total{code="2xx"} 1' in metrics
    assert "agent_callbacks_waiting 0" in metrics
    table = node.cli("callback", "ls").stdout.decode()
    assert f"{record['id']}.1.0" in table and "delivered" in table


def test_which_ends_are_told(caller, receiver):
    node, good, bad, all_ends = caller(), receiver(), receiver(), receiver()
    put(node, "work", {"url": good.url(), "on": ["succeeded"]}, {"url": bad.url(), "on": "failed"},
        {"url": all_ends.url()}, script='[ "$(cat)" != fail ]')
    run(node, "work")
    r = node.http("POST", "/v1/jobs/work/runs", b"fail", {"Prefer": "wait=30"})
    assert r.json()["state"] == "failed"
    all_ends.wait(2)
    bad.wait(1)
    types = [json.loads(b)["type"] for _, _, b in all_ends.came]
    assert sorted(types) == ["agent.run.failed", "agent.run.succeeded"]
    assert [json.loads(b)["type"] for _, _, b in good.came] == ["agent.run.succeeded"]
    assert [json.loads(b)["type"] for _, _, b in bad.came] == ["agent.run.failed"]
    assert bad.came[0][1]["X-Function-Status"] == "500"


def test_a_submits_own_callback(caller, receiver):
    node, own, beside = caller(), receiver(), receiver()
    node.cli("secret", "set", "cb", stdin=SECRET.encode())
    put(node, "work", {"url": own.url()})
    record = run(node, "work", {"X-Callback-Url": beside.url("/x"), "X-Callback-Secret": "cb"})
    ((path, headers, _),) = beside.wait(1)
    assert path == "/x" and headers["webhook-signature"].startswith("v1,")
    assert headers["webhook-id"] == f"{record['id']}.1.1"
    own.wait(1)
    assert "webhook-signature" not in own.came[0][1]
    # A one-off, too; and what cannot be a URL is refused before there is a run.
    r = node.http("POST", "/v1/runs", {"image": IMAGE, "command": ["true"]},
                  {"X-Callback-Url": beside.url("/y"), "Prefer": "wait=30"})
    assert r.status == 200, r.body
    beside.wait(2)
    assert beside.came[1][0] == "/y" and json.loads(beside.came[1][2]).get("job") is None
    for value, field in ("ftp://x", "X-Callback-Url"), ("http://h/#f", "X-Callback-Url"):
        r = node.http("POST", "/v1/jobs/work/runs", b"", {"X-Callback-Url": value})
        assert r.status == 422 and r.json()["errors"][0]["field"] == field, r.body


def test_an_answer_of_500_is_tried_again(caller, receiver):
    node, r = caller(), receiver(500, (200, {}, b"ok"))
    put(node, "work", {"url": r.url()})
    record = run(node, "work")
    c = wait_state(node, record["id"], "waiting")
    r.wait(1)

    def tried():
        """the first try is over"""
        c = state_of(node, record["id"])
        return c if c["tries"] == 1 else None
    c = wait_for(tried)
    assert c["status"] == 500 and c["next_at"] and c["detail"] == "it answered 500"
    began = time.monotonic()
    r.wait(2)
    assert time.monotonic() - began > 2, "the second try comes after about five seconds"
    assert r.came[0][1]["webhook-id"] == r.came[1][1]["webhook-id"]
    assert r.came[0][2] == r.came[1][2], "the same body"
    assert wait_state(node, record["id"], "delivered")["tries"] == 2


def test_410_turns_a_receiver_off_until_the_job_is_applied_anew(caller, receiver):
    node, r = caller(), receiver(410, 410)
    put(node, "work", {"url": r.url()})
    first = run(node, "work")
    assert wait_state(node, first["id"], "gone")["status"] == 410
    assert "410" in node.log() and r.url() in node.log()
    second = run(node, "work")
    c = wait_state(node, second["id"], "off")
    assert c["tries"] == 0 and "410" in c["detail"]
    # The next start knows it, too.
    assert node.stop() == 0
    node.start()
    third = run(node, "work")
    wait_state(node, third["id"], "off")
    assert len(r.came) == 1
    # Applied anew, unchanged as it is.
    put(node, "work", {"url": r.url()})
    fourth = run(node, "work")
    wait_state(node, fourth["id"], "gone")
    assert len(r.came) == 2
    # What was not sent can be, and is then on again.
    node.cli("callback", "retry", f"{second['id']}.1.0")
    wait_state(node, second["id"], "delivered")
    fifth = run(node, "work")
    wait_state(node, fifth["id"], "delivered")


def test_a_host_that_hangs_holds_up_nobody_else(caller, receiver):
    node, slow, quick = caller(), receiver(*["hang"] * 8), receiver()
    put(node, "slow", {"url": slow.url()})
    put(node, "quick", {"url": quick.url()})
    runs = [run(node, "slow") for _ in range(6)]
    slow.wait(4)
    time.sleep(0.3)
    assert len(slow.came) == 4, "four at a time to one host"
    record = run(node, "quick")
    wait_state(node, record["id"], "delivered", 1.5)

    def timed_out():
        """the first try of the slow one is over"""
        c = state_of(node, runs[0]["id"])
        return c if c["tries"] else None
    c = wait_for(timed_out)
    assert c["state"] == "waiting" and c["status"] is None and c["detail"]
    slow.wait(6)


def test_redirects_are_not_followed(caller, receiver):
    node, elsewhere = caller(), receiver()
    r = receiver((302, {"Location": elsewhere.url()}, b""))
    put(node, "work", {"url": r.url()})
    record = run(node, "work")
    r.wait(1)

    def tried():
        """the first try is over"""
        c = state_of(node, record["id"])
        return c if c["tries"] == 1 else None
    c = wait_for(tried)
    assert c["state"] == "waiting" and "redirects are not followed" in c["detail"]
    assert elsewhere.came == []


def test_an_endless_answer_is_not_read(caller, receiver):
    node = caller()
    r = receiver((200, {}, b"x" * (5 << 20)))
    put(node, "work", {"url": r.url()})
    record = run(node, "work")
    assert wait_state(node, record["id"], "delivered")["status"] == 200


def test_retry_after_is_kept(caller, receiver):
    node, r = caller(), receiver((503, {"Retry-After": "3600"}, b""))
    put(node, "work", {"url": r.url()})
    record = run(node, "work")
    r.wait(1)

    def later():
        """the next try is an hour away"""
        c = state_of(node, record["id"])
        return c if c["tries"] == 1 else None
    c = wait_for(later)
    due = time.mktime(time.strptime(c["next_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert 3500 < due - time.time() < 3700
    # Sent again by hand it does not wait.
    node.cli("callback", "retry", c["id"])
    wait_state(node, record["id"], "delivered")


def test_private_addresses_are_refused(caller, receiver):
    node, r = caller(callbacks__allow_private="no"), receiver()
    for host in "127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", \
            "localhost", "foo.localhost":
        answer = node.http("PUT", "/v1/jobs/bad", {"image": IMAGE, "callbacks":
                                                   [{"url": f"http://{host}:1/"}]})
        assert answer.status == 422, host
        (error,) = answer.json()["errors"]
        assert error["field"] == "callbacks[0].url" and "allow_private" in error["detail"]
    # A name says nothing of its address: that is looked at when it is connected to.
    name = subprocess.check_output(["hostname"]).decode().strip()
    for host in (name, "127.1", "0x7f000001", "2130706433"):
        answer = node.http("POST", "/v1/runs", {"image": IMAGE, "command": ["true"]},
                           {"X-Callback-Url": r.url(host=host), "Prefer": "wait=30"})
        if answer.status == 422:
            continue  # no host name at all
        c = wait_state(node, answer.json()["id"], "failed", 20) if host != name else \
            wait_for(lambda: next((c for c in listed(node)
                                   if c["run"] == answer.json()["id"] and c["tries"]), None))
        assert c["tries"] == 1 and c["status"] is None, c
        if c["state"] == "failed":
            assert "no public address" in c["detail"]
    assert r.came == []


def test_deliveries_survive_kill_9(caller, receiver):
    node, r = caller(), receiver(500)
    put(node, "work", {"url": r.url()})
    record = run(node, "work")
    r.wait(1)

    def tried():
        """the first try is over"""
        c = state_of(node, record["id"])
        return c if c["tries"] == 1 else None
    wait_for(tried)
    node.kill()
    r.answers = []
    node.start()
    wait_state(node, record["id"], "delivered")
    assert len(r.came) == 2 and r.came[0][2] == r.came[1][2]
    assert r.came[0][1]["webhook-id"] == r.came[1][1]["webhook-id"]


def test_an_end_without_its_delivery_is_found_at_the_start(caller, receiver):
    """As when the process dies between the end's record and the delivery's."""
    node, r = caller(), receiver()
    put(node, "work", {"url": r.url()})
    put(node, "mute")
    record = run(node, "work")
    one_off = node.http("POST", "/v1/runs", {"image": IMAGE, "command": ["true"], "callbacks":
                                             [{"url": r.url("/one-off")}]}, {"Prefer": "wait=30"})
    run(node, "mute")
    wait_state(node, one_off.json()["id"], "delivered")
    wait_state(node, record["id"], "delivered")
    node.kill()
    db = sqlite3.connect(node.data / "db" / "callbacks.db")
    assert db.execute("DELETE FROM delivery").rowcount == 2
    db.commit()
    db.close()
    node.start()
    r.wait(4)
    wait_state(node, record["id"], "delivered")
    ids = [headers["webhook-id"] for _, headers, _ in r.came]
    assert sorted(ids[:2]) == sorted(ids[2:]), "the same ids: receivers know them"
    assert len(listed(node)) == 2


def test_a_missing_secret_is_waited_for(caller, receiver):
    node, r = caller(), receiver()
    put(node, "work", {"url": r.url(), "secret": "later"})
    record = run(node, "work")

    def tried():
        """the first try is over"""
        c = state_of(node, record["id"])
        return c if c and c["tries"] else None
    c = wait_for(tried)
    assert r.came == [] and "there is no secret 'later'" in c["detail"]
    node.cli("secret", "set", "later", stdin=SECRET.encode())
    wait_state(node, record["id"], "delivered")
    assert r.came[0][1]["webhook-signature"].startswith("v1,")


def test_https(caller, receiver, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=r",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    for part in [cert, *list(cert.parents)[:3]]:
        part.chmod(part.stat().st_mode | 0o055)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    node, r = caller(callbacks__ca_file=cert), receiver(tls=context)
    put(node, "work", {"url": r.url(scheme="https")})
    record = run(node, "work")
    wait_state(node, record["id"], "delivered")
    # Another name than the certificate's is not told.
    put(node, "other", {"url": r.url(scheme="https", host="localhost")})
    record = run(node, "other")

    def tried():
        """the first try is over"""
        c = state_of(node, record["id"])
        return c if c and c["tries"] else None
    assert "TLS" in wait_for(tried)["detail"] and len(r.came) == 1


def test_lists_and_what_cannot_be_asked(caller, receiver):
    node, r = caller(), receiver(410)
    put(node, "a", {"url": r.url()})
    put(node, "b", {"url": r.url()})
    run_a = run(node, "a")
    wait_state(node, run_a["id"], "gone")
    run_b = run(node, "b")
    wait_state(node, run_b["id"], "delivered")
    assert [c["run"] for c in listed(node)] == [run_b["id"], run_a["id"]]
    assert [c["run"] for c in listed(node, job="a")] == [run_a["id"]]
    assert [c["run"] for c in listed(node, state="delivered")] == [run_b["id"]]
    answer = node.http("GET", "/v1/callbacks?limit=1").json()
    assert len(answer["callbacks"]) == 1 and answer["more"] is True
    for query in "state=x", "limit=0", "limit=1001", "x=y":
        assert node.http("GET", f"/v1/callbacks?{query}").status == 400, query
    answer = node.http("POST", f"/v1/callbacks/{run_a['id']}.9.9/retry")
    assert (answer.status, answer.json()["code"]) == (404, "unknown_callback")
    p = node.cli("callback", "retry", "nix", check=False)
    assert p.returncode == 1 and b"no call-back" in p.stderr
    names = node.cli("callback", "ls", "-q").stdout.decode().split()
    assert names == [f"{run_b['id']}.1.0", f"{run_a['id']}.1.0"]


def test_a_retried_run_is_told_again(caller, receiver):
    node, r = caller(), receiver()
    put(node, "work", {"url": r.url()}, script="exit 3")
    record = run(node, "work", want="failed")
    r.wait(1)
    assert node.http("POST", f"/v1/runs/{record['id']}/retry").status == 202
    r.wait(2)
    wait_for(lambda: node.run(record["id"])["state"] in ENDED)
    assert [h["webhook-id"] for _, h, _ in r.came] == [f"{record['id']}.{n}.0" for n in (1, 2)]


def test_documents_that_cannot_be(caller):
    node = caller()
    for callbacks, field in ([{"url": "x"}], "callbacks[0].url"), \
            ([{"url": "http://h"}] * 9, "callbacks"), ("x", "callbacks"), \
            ([{"url": "http://h", "on": "never"}], "callbacks[0].on"), \
            ([{"url": "http://h", "secret": "a/b"}], "callbacks[0].secret"):
        r = node.http("PUT", "/v1/jobs/bad", {"image": IMAGE, "callbacks": callbacks})
        assert r.status == 422 and r.json()["errors"][0]["field"] == field, (callbacks, r.body)
    put(node, "good", {"url": "https://example.org/x", "secret": "cb", "on": ["failed"]})
    assert node.http("GET", "/v1/jobs/good").json()["callbacks"] == \
        [{"url": "https://example.org/x", "secret": "cb", "on": ["failed"]}]


def test_a_full_list_forgets_what_is_over(caller, receiver):
    """Ten thousand rows of an earlier life: the oldest that is over makes room."""
    node, r = caller(), receiver()
    put(node, "work", {"url": r.url()})
    run(node, "work")
    r.wait(1)
    assert node.stop() == 0
    db = sqlite3.connect(node.data / "db" / "callbacks.db")
    hour_ago = int((time.time() - 3600) * 1e6)
    db.executemany("INSERT INTO delivery VALUES(?,'old',1,'http://127.0.0.1:1/','',"
                   "'agent.run.failed',1,1,200,'',?,0,?,'{}')",
                   [(f"01AAAAAAAAAAAAAAAAAAAA{i:04X}.1.0", hour_ago - i, hour_ago - i)
                    for i in range(9999)])
    db.commit()
    node.start()
    record = run(node, "work")
    wait_state(node, record["id"], "delivered")

    def shrunk():
        """the oldest row is gone"""
        return db.execute("SELECT count(*) FROM delivery").fetchone()[0] == 10000
    wait_for(shrunk)
    left = {row[0] for row in db.execute("SELECT id FROM delivery")}
    assert f"{record['id']}.1.0" in left
    assert [i for i in range(9999) if f"01AAAAAAAAAAAAAAAAAAAA{i:04X}.1.0" not in left] == [9998]
    db.close()


def test_one_too_many_is_dropped_and_counted(caller, receiver):
    """Ten thousand that wait, until tomorrow."""
    node, r = caller(), receiver()
    put(node, "work", {"url": r.url()})
    assert node.stop() == 0
    db = sqlite3.connect(node.data / "db" / "callbacks.db")
    now = int(time.time() * 1e6)
    db.executemany("INSERT INTO delivery VALUES(?,'old',1,'http://127.0.0.1:1/','',"
                   "'agent.run.failed',0,1,500,'',?,?,0,'{}')",
                   [(f"01AAAAAAAAAAAAAAAAAAAA{i:04X}.1.0", now, now + 86400 * 10**6)
                    for i in range(10000)])
    db.commit()
    db.close()
    node.start()
    run(node, "work")

    def counted():
        """the drop is counted"""
        return b'agent_callbacks_total{state="dropped"} 1' in node.http("GET", "/metrics").body
    wait_for(counted)
    assert b"agent_callbacks_waiting 10000" in node.http("GET", "/metrics").body
    assert "is dropped: 10000 others wait already" in node.log() and r.came == []


def test_any_node_lists_and_sends_again(make_node, image_tar, receiver):
    nodes = cluster(make_node, 2, callbacks__allow_private="yes")
    nodes[0].cli("push", image_tar)
    r = receiver(410)
    put(nodes[0], "work", {"url": r.url()})
    record = run(nodes[0], "work")
    wait_state(nodes[0], record["id"], "gone")
    assert state_of(nodes[1], record["id"])["state"] == "gone"
    nodes[1].cli("callback", "retry", f"{record['id']}.1.0")
    assert wait_state(nodes[1], record["id"], "delivered")["tries"] == 1
    answer = nodes[1].http("GET", "/v1/callbacks").json()
    assert answer["partial"] == [] and answer["more"] is False
