"""What a client may do to the registry: paths that lead elsewhere, uploads that never end, ranges
that overflow. Each is a 4xx; memory, descriptors and disk stay bounded; others are served."""
import os
import pathlib
import re
import socket

import pytest

import lab_image
from conftest import Node, wait_for

SHA = "sha256:" + "0" * 64
ALGO = lab_image.sha


@pytest.fixture(scope="module")
def reg():
    node = Node(image__upload_timeout="10s").start()
    yield node
    node.close()


def rss(node):
    pid = node.agent_pid()
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(node):
    return len(os.listdir(f"/proc/{node.agent_pid()}/fd"))


PATHS = [
    "/v2/..%2f..%2fetc/tags/list", "/v2/a/..%2f..%2fb/manifests/x", "/v2/%2e%2e/x/manifests/y",
    "/v2/../etc/passwd", "/v2/a/../../etc/blobs/" + SHA, "/v2//a/tags/list", "/v2/a//b/tags/list",
    "/v2/a/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd", "/v2/a/blobs/sha256:../../x",
    "/v2/a/blobs/sha256:" + "../" * 21 + "x", "/v2/a/blobs/sha256:" + "0" * 63 + "%00",
    "/v2/a/blobs/sha256:" + "0" * 63 + "G", "/v2/a/blobs/SHA256:" + "0" * 64,
    "/v2/a/blobs/sha1:" + "0" * 40, "/v2/a/blobs/sha256:" + "0" * 63, "/v2/a/blobs/" + SHA + "/",
    "/v2/a/blobs/uploads/..%2f..%2fx", "/v2/a/blobs/uploads/" + "0" * 31,
    "/v2/a/blobs/uploads/" + "g" * 32, "/v2/a/blobs/uploads/" + "0" * 33,
    "/v2/a/manifests/..", "/v2/a/manifests/%2e%2e", "/v2/a/manifests/a%2fb",
    "/v2/a/manifests/a%00b", "/v2/a/manifests/" + "t" * 129, "/v2/a/manifests/-x",
    "/v2/a/referrers/sha256:..%2fx", "/v2/a/referrers/x", "/v2/" + "a" * 300 + "/tags/list",
    "/v2/" + "a/" * 200 + "tags/list", "/v2/A/tags/list", "/v2/a_/tags/list", "/v2/a/tags/LIST",
    "/v2/_catalog/x", "/v2/a%2Fb/tags/list%00", "/v2/a/blobs/%zz", "/v2/\\..\\x/tags/list",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"])
def test_paths_lead_nowhere(reg, method):
    for path in PATHS:
        r = reg.http(method, path, body=b"x" if method in ("PUT", "PATCH", "POST") else None)
        assert 400 <= r.status < 500, (method, path, r.status)
        assert b"root:" not in r.body
    files = {p.name for p in (reg.data / "blobs").iterdir()}
    assert files == {"sha256", "sha512", "uploads"}


def test_digests_in_queries(reg):
    for d in ("sha256:../../x", "..", "sha256:", "sha512:" + "0" * 64, SHA + "x", "%00",
              "sha256:" + "%2e%2e%2f" * 20):
        for query in (f"digest={d}", f"mount={d}&from=a"):
            r = reg.http("POST", f"/v2/q/blobs/uploads/?{query}", body=b"x")
            assert r.status == 400, (query, r.status)
        r = reg.http("POST", "/v2/q/blobs/uploads/")
        assert reg.http("PUT", f"{r.headers['Location']}?digest={d}", body=b"x").status == 400
        reg.http("DELETE", r.headers["Location"])
    for source in ("../../x", "A", "a" * 300, "..%2fx"):
        r = reg.http("POST", f"/v2/q/blobs/uploads/?mount={SHA}&from={source}")
        assert r.status in (202, 400)
        if r.status == 202:
            reg.http("DELETE", r.headers["Location"])


def test_ranges_that_overflow(reg):
    data = os.urandom(1000)
    d = lab_image.upload(reg, "r/x", data)
    big = ("18446744073709551615", "18446744073709551616", "9" * 400)
    for n in big:
        for text in (f"bytes={n}-", f"bytes={n}-{n}", f"bytes=-{n}", f"bytes=0-{n}",
                     f"bytes=1-{n}", f"bytes={n}-0", f"bytes=0-{n},1-2"):
            r = reg.http("GET", f"/v2/r/x/blobs/{d}", headers={"Range": text})
            assert r.status in (200, 206, 416), (text, r.status)
            assert len(r.body) <= 1000 and (r.status == 416 or data.endswith(r.body) or
                                            r.body == data)
    for text in ("bytes=", "bytes=-", "bytes=a-b", "bytes=0x1-", "bytes=1--2", "lines=1-2",
                 "bytes=+1-2", "bytes= 1 - 2 ", "bytes=1-2, 3-4, 5-6, 7-8" * 50):
        r = reg.http("GET", f"/v2/r/x/blobs/{d}", headers={"Range": text})
        assert r.status in (200, 206, 416) and len(r.body) <= 1000, text
    where = reg.http("POST", "/v2/r/x/blobs/uploads/").headers["Location"]
    for text in (*(f"0-{n}" for n in big), *(f"{n}-{n}" for n in big), "5-1", "-", "0-", "-1",
                 "0-0-0", "a-b", "0x0-0x1", "bytes 0-1/1"):
        r = reg.http("PATCH", where, body=b"xyz", headers={"Content-Range": text})
        assert r.status in (400, 416), (text, r.status)
    assert reg.http("GET", where).headers["Range"] == "0-0"
    assert reg.http("PATCH", where, body=b"xyz", headers={"Content-Range": "0-2"}).status == 202
    reg.http("DELETE", where)
    for n in ("-1", "99999999999999999999", "1e3", "0x10", " 5", "5 5"):
        answer = reg.raw("PUT /v2/r/x/manifests/t HTTP/1.1\r\nHost: localhost\r\n"
                         f"Content-Length: {n}\r\nConnection: close\r\n\r\n".encode(),
                         timeout=3)
        assert re.match(rb"HTTP/1.1 4\d\d ", answer) or n == " 5", (n, answer[:80])


def test_ten_thousand_half_open_uploads(reg):
    """They are refused over a limit, age, and go with their files; meanwhile others push."""
    before, fds = rss(reg), descriptors(reg)
    statuses = {}
    opened = []
    with socket.create_connection(("127.0.0.1", reg.port), timeout=30) as s:
        f = s.makefile("rb")
        for _ in range(10_000):
            s.sendall(b"POST /v2/half/open/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n"
                      b"Content-Length: 0\r\n\r\n")
            status, headers = read_answer(f)
            statuses[status] = statuses.get(status, 0) + 1
            if status == 202:
                opened.append(headers[b"location"].decode())
            else:
                assert status == 429 and headers[b"retry-after"]
    assert statuses[202] <= 256 and statuses[429] >= 9_700, statuses
    assert rss(reg) - before < 16 << 20 and descriptors(reg) - fds < 400
    # One that ends makes room at once; what is pushed in one request needs none for long.
    assert reg.http("DELETE", opened.pop()).status == 204
    lab_image.upload(reg, "half/other", b"still served")
    assert reg.http("GET", "/readyz").status == 200

    def aged():
        """all uploads have aged and gone"""
        return not list((reg.data / "blobs" / "uploads").iterdir())
    wait_for(aged, 60, 0.2)
    assert reg.http("GET", opened[0]).status == 404
    lab_image.upload(reg, "half/open", b"again")


def read_answer(f):
    status = int(f.readline().split()[1])
    headers = {}
    while (line := f.readline().strip()):
        k, v = line.split(b":", 1)
        headers[k.lower()] = v.strip()
    f.read(int(headers.get(b"content-length", 0)))
    return status, headers


def test_slow_patches(reg):
    """Two hundred clients that send a byte now and then hold nothing up, and are cut off in the
    end; a session whose client went away can be taken up again."""
    before = rss(reg)
    sockets, where = [], []
    for _ in range(200):
        where.append(reg.http("POST", "/v2/slow/x/blobs/uploads/").headers["Location"])
        s = socket.create_connection(("127.0.0.1", reg.port))
        s.sendall(f"PATCH {where[-1]} HTTP/1.1\r\nHost: localhost\r\n"
                  "Content-Length: 1000000\r\n\r\n".encode())
        sockets.append(s)
    for _ in range(5):
        for s in sockets:
            s.send(b"x")
        assert reg.http("GET", "/healthz").status == 200
    assert rss(reg) - before < 16 << 20
    assert reg.http("PATCH", where[0], body=b"y").status == 409  # one request at a time
    for s in sockets:
        s.close()

    def idle():
        """the session is free again, and knows what came"""
        r = reg.http("GET", where[0])
        return r.status == 204 and r.headers["Range"] == "0-4"
    wait_for(idle)
    assert reg.http("PATCH", where[0], body=b"y", headers={"Content-Range": "5-5"}).status == 202
    for w in where:
        reg.http("DELETE", w)


def test_bodies_that_do_not_fit(reg):
    where = reg.http("POST", "/v2/big/x/blobs/uploads/").headers["Location"]
    answer = reg.raw(f"PATCH {where} HTTP/1.1\r\nHost: localhost\r\n"
                     "Content-Length: 99999999999999\r\n\r\n".encode(), timeout=5)
    assert re.match(rb"HTTP/1.1 (413|507) ", answer), answer[:80]
    r = reg.http("PUT", "/v2/big/x/manifests/t", body=b"{" * (4 << 20) + b"x")
    assert r.status == 413
    for body in (b'{"a":' * 100_000, b"[" * 1_000_000, b'{"schemaVersion":2,"layers":[' +
                 b"{}," * 300_000 + b"{}]}", b'{"x":"' + b"\\u0000" * 100_000 + b'"}'):
        r = reg.http("PUT", "/v2/big/x/manifests/t", body=body,
                     headers={"Content-Type": lab_image.MANIFEST})
        assert r.status in (400, 413), body[:20]
    r = reg.http("PUT", "/v2/big/x/manifests/t?" + "&".join(f"tag=t{i}" for i in range(100)),
                 body=b"{}")
    assert r.status in (400, 414)
