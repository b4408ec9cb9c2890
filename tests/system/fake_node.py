"""A node that is none: speaks the JSON of the API well enough for the client's tests, and can
misbehave on purpose. Runs in the test's own process, on a loopback port of its own."""
import json
import re
import socket
import threading
import time
import urllib.parse

ULID = "01JD0000000000000000000%03d"


def iso(t):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) + ".000000Z"


class Run:
    def __init__(self, number, job, image, payload, document):
        self.id = ULID % number
        self.job, self.image, self.payload, self.document = job, image, payload, document
        self.state, self.reason, self.detail = "queued", None, None
        self.exit_code = self.signal = None
        self.attempt = 1
        self.created, self.started, self.ended = time.time(), None, None
        self.out, self.err = b"", b""
        self.cond = threading.Condition()
        self.cancelled = threading.Event()

    def write(self, out=b"", err=b""):
        with self.cond:
            self.out += out
            self.err += err
            self.cond.notify_all()

    def start(self):
        with self.cond:
            self.state, self.started = "running", time.time()
            self.cond.notify_all()

    def end(self, state, reason, exit_code=None, signal=None, detail=None):
        with self.cond:
            self.state, self.reason, self.detail = state, reason, detail
            self.exit_code, self.signal, self.ended = exit_code, signal, time.time()
            self.cond.notify_all()

    def again(self):
        """A new attempt."""
        with self.cond:
            self.attempt += 1
            self.out = self.err = b""
            self.state, self.started = "queued", None
            self.cond.notify_all()

    def over(self):
        return self.state in ("succeeded", "failed", "timed_out", "cancelled", "lost")

    def json(self):
        ran = (self.ended or time.time()) - self.started if self.started else 0
        return {
            "id": self.id, "job": self.job, "revision": 1, "image": self.image,
            "image_digest": "sha256:" + "a" * 64, "command": ["x", "y"], "trigger": "api",
            "state": self.state, "reason": self.reason, "detail": self.detail, "node": "n1",
            "entry_node": "n1", "attempt": self.attempt, "epoch": 1, "exit_code": self.exit_code,
            "signal": self.signal, "created_at": iso(self.created), "queued_at": iso(self.created),
            "placed_at": None, "started_at": iso(self.started) if self.started else None,
            "ended_at": iso(self.ended) if self.ended else None, "queue_seconds": 0.001,
            "start_seconds": 0.004, "run_seconds": ran, "start_kind": "cached",
            "payload_bytes": len(self.payload), "output_bytes": len(self.out),
            "log_bytes": len(self.err), "output_truncated": False,
            "limits": {"memory_bytes": 536870912, "cpus": 1.5, "pids": 256,
                       "disk_bytes": 1073741824, "timeout_seconds": 3600, "network": "none"},
            "resources": {"cpu_user_seconds": 0.5, "cpu_system_seconds": 0.25, "cpu_seconds": 0.75,
                          "cpu_throttled_seconds": 0, "memory_peak_bytes": 7340032,
                          "memory_peak_source": "kernel", "memory_mean_bytes": 5000000,
                          "io_read_bytes": 4096, "io_write_bytes": 0, "io_read_ops": 1,
                          "io_write_ops": 0, "oom_kills": 0, "samples": 3} if self.ended else None,
            "labels": {"team": "a"},
        }


class FakeNode:
    """script(run) plays a run, in a thread of its own."""

    def __init__(self, script=None):
        self.script = script or (lambda run: (run.start(), run.end("succeeded", "exit", 0)))
        self.runs, self.jobs, self.images, self.blobs, self.manifests = [], {}, [], {}, {}
        self.requests = []       # (method, target, headers, body)
        self.cut_follow = []     # byte counts: the next follows of output break after so many
        self.early = None        # (status, document): answers a POST before its body was read
        self.mount_from = set()  # digests that another repository has
        self.patches = 0
        self.lock = threading.Lock()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.addr = f"127.0.0.1:{self.port}"
        self.alive = True
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.alive = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def accept(self):
        while self.alive:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    # ---- HTTP ----

    def serve(self, conn):
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        f = conn.makefile("rb")
        try:
            while self.one(conn, f):
                pass
        except (OSError, ValueError):
            pass
        finally:
            f.close()
            conn.close()

    def one(self, conn, f):
        line = f.readline()
        if not line:
            return False
        method, target, _ = line.decode().split()
        headers = {}
        while True:
            line = f.readline().decode().strip()
            if not line:
                break
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        assert headers["host"] in (self.addr, f"localhost:{self.port}")
        if method == "POST" and self.early:
            status, doc = self.early
            self.answer(conn, status, doc, "application/problem+json", close=True)
            time.sleep(0.5)  # the client finds the answer while it is still sending
            return False
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                n = int(f.readline(), 16)
                body += f.read(n)
                f.readline()
                if n == 0:
                    break
        else:
            body = f.read(int(headers.get("content-length", 0)))
        with self.lock:
            self.requests.append((method, target, headers, body))
        return self.route(conn, method, target, headers, body)

    def answer(self, conn, status, doc=None, kind="application/json", headers=(), raw=None,
               close=False, head=False):
        data = raw if raw is not None else (b"" if doc is None else json.dumps(doc).encode())
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", f"Content-Type: {kind}"]
        lines += [f"{k}: {v}" for k, v in headers]
        if close:
            lines.append("Connection: close")
        conn.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if head else data))
        return not close

    def problem(self, conn, status, code, detail, errors=None):
        doc = {"type": "about:blank", "title": code, "status": status, "detail": detail,
               "code": code, "request_id": "1"}
        if errors:
            doc["errors"] = errors
        return self.answer(conn, status, doc, "application/problem+json")

    # ---- routes ----

    def route(self, conn, method, target, headers, body):
        path, _, query = target.partition("?")
        q = {k: v[-1] for k, v in urllib.parse.parse_qs(query, keep_blank_values=True).items()}
        m = re.fullmatch(r"/v1/jobs/([^/]+)/runs", path)
        if m and method == "POST":
            name = urllib.parse.unquote(m[1])
            if name not in self.jobs:
                return self.problem(conn, 404, "unknown_job", f"there is no job '{name}'")
            return self.submit(conn, name, self.jobs[name]["image"], body, None)
        if path == "/v1/runs" and method == "POST":
            if "spec" in q:
                return self.submit(conn, None, json.loads(q["spec"])["image"], body,
                                   json.loads(q["spec"]))
            doc = json.loads(body)
            return self.submit(conn, None, doc["image"], b"", doc)
        if path == "/v1/runs":
            return self.list_runs(conn, q)
        m = re.fullmatch(r"/v1/runs/([^/]+)(/\w+)?", path)
        if m:
            return self.run(conn, method, m[1], m[2], q)
        if path.startswith("/v1/jobs"):
            return self.job(conn, method, path[len("/v1/jobs"):], body)
        if path.startswith("/v2/"):
            return self.registry(conn, method, path, q, headers, body)
        return self.other(conn, method, path, q)

    def submit(self, conn, job, image, payload, document):
        with self.lock:
            run = Run(len(self.runs) + 1, job, image, payload, document)
            self.runs.append(run)
        threading.Thread(target=self.script, args=(run,), daemon=True).start()
        return self.answer(conn, 202, run.json(), headers=[("Location", f"/v1/runs/{run.id}")])

    def list_runs(self, conn, q):
        runs = sorted(self.runs, key=lambda r: r.id, reverse=True)
        if "job" in q:
            runs = [r for r in runs if r.job == q["job"]]
        if "state" in q:
            runs = [r for r in runs if r.state in q["state"].split(",")]
        if "after" in q:
            runs = [r for r in runs if r.id < q["after"]]
        limit = int(q.get("limit", 100))
        page = runs[:limit]
        return self.answer(conn, 200, {"runs": [r.json() for r in page],
                                       "next": page[-1].id if len(runs) > limit else None})

    def run(self, conn, method, rid, verb, q):
        run = next((r for r in self.runs if r.id == rid), None)
        if run is None:
            return self.problem(conn, 404, "unknown_run", f"there is no run {rid}")
        if method == "GET" and verb is None:
            return self.answer(conn, 200, run.json())
        if verb == "/cancel":
            if run.over():
                return self.problem(conn, 409, "conflict", "the run has ended")
            run.cancelled.set()
            if run.state == "queued":
                run.end("cancelled", "cancelled")
            return self.answer(conn, 200, run.json())
        if verb == "/retry":
            run.again()
            return self.answer(conn, 200, run.json())
        is_out = verb == "/output" or q.get("stream") == "stdout"
        if q.get("stream") == "both":
            return self.answer(conn, 200, raw=run.out + run.err, kind="text/plain")
        return self.stream(conn, run, is_out, q.get("follow") == "1", int(q.get("tail", 0)))

    def stream(self, conn, run, is_out, follow, tail):
        cut = self.cut_follow.pop(0) if follow and is_out and self.cut_follow else None
        if not follow:
            data = run.out if is_out else run.err
            if tail:
                data = b"".join(data.splitlines(True)[-tail:])
            return self.answer(conn, 200, raw=data, kind="application/octet-stream")
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
                     b"Content-Type: application/octet-stream\r\n\r\n")
        sent, attempt = 0, run.attempt
        while True:
            with run.cond:
                data = (run.out if is_out else run.err)[sent:]
                if not data and not run.over() and run.attempt == attempt:
                    run.cond.wait(5)
                    continue
                if run.attempt != attempt:
                    data = b""
            if not data:
                conn.sendall(b"0\r\n\r\n")
                return True
            if cut is not None and sent + len(data) >= cut:
                data = data[:cut - sent]
                conn.sendall(b"%x\r\n" % len(data) + data + b"\r\n")
                return False
            conn.sendall(b"%x\r\n" % len(data) + data + b"\r\n")
            sent += len(data)

    def job(self, conn, method, rest, body):
        if rest == "":
            return self.answer(conn, 200, {"jobs": list(self.jobs.values()), "next": None})
        name = urllib.parse.unquote(rest[1:])
        if method == "PUT":
            doc = json.loads(body)
            unknown = [k for k in doc if k == "imagee"]
            if unknown:
                return self.problem(conn, 422, "invalid_document", "the document has mistakes",
                                    [{"field": "imagee",
                                      "detail": "unknown field; did you mean 'image'?"}])
            old = self.jobs.get(name)
            new = dict(doc, revision=1)
            if old:
                same = {k: v for k, v in old.items() if k not in ("revision", "updated_at")} == doc
                new["revision"] = old["revision"] if same else old["revision"] + 1
            new["updated_at"] = iso(time.time())
            self.jobs[name] = new
            return self.answer(conn, 200 if old else 201, new)
        if name not in self.jobs:
            return self.problem(conn, 404, "unknown_job", f"there is no job '{name}'")
        if method == "DELETE":
            del self.jobs[name]
            return self.answer(conn, 204, raw=b"")
        return self.answer(conn, 200, self.jobs[name])

    def registry(self, conn, method, path, q, headers, body):
        m = re.fullmatch(r"/v2/(.+)/blobs/uploads/(\w*)", path)
        if m and method == "POST":
            if q.get("mount") in self.mount_from:
                self.blobs.setdefault(q["mount"], b"mounted")
                return self.answer(conn, 201, raw=b"")
            return self.answer(conn, 202, raw=b"", headers=[
                ("Location", f"/v2/{m[1]}/blobs/uploads/s1"), ("Range", "0-0")])
        if m and method in ("PUT", "PATCH"):
            import hashlib
            self.patches += 1
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            if digest != q["digest"]:
                return self.answer(conn, 400, {"errors": [{"code": "DIGEST_INVALID",
                                                           "message": "not the digest"}]})
            self.blobs[digest] = body
            return self.answer(conn, 201, raw=b"")
        m = re.fullmatch(r"/v2/(.+)/blobs/(sha256:\w+)", path)
        if m:
            found = m[2] in self.blobs
            return self.answer(conn, 200 if found else 404, raw=b"", head=True)
        m = re.fullmatch(r"/v2/(.+)/manifests/(.+)", path)
        if m and method == "PUT":
            self.manifests[f"{m[1]}:{m[2]}"] = (headers["content-type"], body)
            return self.answer(conn, 201, raw=b"")
        return self.answer(conn, 404, {"errors": [{"code": "UNKNOWN", "message": path}]})

    def other(self, conn, method, path, q):
        node = {"name": "n1", "id": "00000001", "address": self.addr, "state": "alive",
                "version": "1", "class": "ab12", "cpus": 4, "memory_bytes": 8 << 30, "slots": 8,
                "running": 1, "queued": 0, "load": [0.5, 0.4, 0.3],
                "capabilities": ["cpu-cpuid.AESNI", "cpu-cpuid.AVX2"], "kernel": "6.1.0",
                "cpu": {"vendor": "GenuineIntel", "model": "x"}, "labels": {"zone": "a"},
                "cgroup": "v1", "uptime_seconds": 4000}
        if path == "/v1/status":
            failed = [r.json() for r in self.runs if r.state == "failed"][:10]
            return self.answer(conn, 200, {
                "cluster": {"nodes": 1, "version": "1"}, "nodes": [node],
                "jobs": [{"name": n, "revision": j["revision"], "image": j["image"], "queued": 0,
                          "running": 0, "succeeded": 2, "failed": len(failed), "last_run": None}
                         for n, j in self.jobs.items()],
                "runs": {"queued": 0, "running": 0, "succeeded": 2, "failed": len(failed)},
                "failures": failed, "store": {"bytes": 1, "runs": len(self.runs)},
                "images": {"count": len(self.images), "bytes": 5 << 20},
                "warnings": ["disk is \x1b[31mnearly full"]})
        if path == "/v1/nodes":
            return self.answer(conn, 200, {"nodes": [node]})
        if path == "/v1/nodes/n1":
            return self.answer(conn, 200, node)
        if path == "/v1/images":
            return self.answer(conn, 200, {"images": self.images, "bytes": 5, "limit_bytes": 9})
        if path == "/v1/images/prune" and method == "POST":
            return self.answer(conn, 200, {"blobs": 3, "bytes": 4096})
        if path.startswith("/v1/images/") and method == "DELETE":
            name = path[len("/v1/images/"):]
            before = len(self.images)
            self.images = [i for i in self.images
                           if not (i["repository"] == name and i["tag"] == q.get("tag"))]
            if len(self.images) == before:
                return self.problem(conn, 404, "unknown_image", f"there is no image '{name}'")
            return self.answer(conn, 200, {"deleted": 1})
        return self.problem(conn, 404, "not_found", f"there is nothing at {path}")
