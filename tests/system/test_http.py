"""HTTP as attackers and accidents speak it, over raw sockets against the running daemon: request
smuggling, slow and idle clients, floods, sizes, pages of other origins."""
import concurrent.futures
import os
import re
import resource
import socket
import time

import pytest

from conftest import proc_status, wait_for

HOST = b"Host: 127.0.0.1\r\n"


def connect(node, timeout=10):
    s = socket.create_connection(("127.0.0.1", node.port), timeout=timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_until_close(s):
    """What comes until the peer closes, and whether it did."""
    out = b""
    try:
        while chunk := s.recv(65536):
            out += chunk
        return out, True
    except ConnectionResetError:
        return out, True
    except TimeoutError:
        return out, False


def statuses(data):
    return [int(x) for x in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def rss_kib(pid):
    return int(proc_status(pid)["VmRSS"].split()[0])


# -- malformed requests and smuggling tricks (specs/dependencies.md)

POST = b"POST /v1/runs HTTP/1.1\r\n" + HOST
LAST = b"0\r\n\r\n"
TRICKS = {
    "bare LF ends a line": b"GET /healthz HTTP/1.1\n" + HOST + b"\r\n",
    "bare LF ends the head": b"GET /healthz HTTP/1.1\r\n" + HOST + b"\n",
    "bare CR in a value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "NUL in a value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "control character in a value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\x01b\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "folded first header": b"GET /healthz HTTP/1.1\r\n " + HOST + b"\r\n",
    "space before the colon": POST + b"Content-Length : 4\r\n\r\nabcd",
    "tab before the colon": POST + b"Content-Length\t: 4\r\n\r\nabcd",
    "space in a name": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X Y: a\r\n\r\n",
    "empty name": b"GET /healthz HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "no colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n",
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "byte >= 0x80 in the target": b"GET /health\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /heal thz HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces": b"GET  /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": b"GET /healthz\r\n" + HOST + b"\r\n",
    "lower-case version": b"GET /healthz http/1.1\r\n" + HOST + b"\r\n",
    "a method that is no token": b"G@T /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "length and chunked": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + LAST,
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "the same length twice": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd",
    "a signed length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "a length with a blank": POST + b"Content-Length: 4 4\r\n\r\nabcd",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "a length over 64 bits": POST + b"Content-Length: 18446744073709551620\r\n\r\nabcd",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"0\r\n\r\n",
    "chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "almost chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked on HTTP/1.0": b"POST /v1/runs HTTP/1.0\r\n" + HOST +
                           b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
CHUNKED = POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
TRICKS.update({f"chunks: {k}": CHUNKED + v for k, v in {
    "data without its CRLF": b"3\r\nabcX\r\n0\r\n\r\n",
    "data ended by LF": b"3\r\nabc\n0\r\n\r\n",
    "size ended by LF": b"3\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a size over 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "17 digits": b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    "a blank before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "an LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "an endless extension": b"3;" + b"x" * 10000 + b"\r\nabc\r\n0\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 4000 + b"\r\n",
}.items()})


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused(shared_node, trick):
    """One error, then the end: what follows on the connection is never taken for a request."""
    smuggled = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    with connect(shared_node) as s:
        s.sendall(TRICKS[trick] + smuggled)
        answer, closed = read_until_close(s)
    assert closed
    found = statuses(answer)
    assert len(found) == 1, answer[:500]
    assert found[0] in ((400, 413, 431) if "endless" in trick else (400, 501)), answer[:500]
    assert b"Connection: close" in answer
    assert b"application/problem+json" in answer
    assert b"openapi" not in answer


def test_other_versions(shared_node):
    for version in b"HTTP/9.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9":
        assert statuses(shared_node.raw(b"GET /healthz " + version + b"\r\n" + HOST + b"\r\n")) \
            in ([505], [400])


def test_coding_that_we_do_not_know(shared_node):
    answer = shared_node.raw(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    assert statuses(answer) in ([501], [400])


def test_tls_hello_is_closed_at_once(shared_node):
    with connect(shared_node) as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100)
        start = time.monotonic()
        answer, closed = read_until_close(s)
    assert (answer, closed) == (b"", True)
    assert time.monotonic() - start < 2


# -- sizes

def test_oversize_heads(shared_node):
    get = b"GET /healthz HTTP/1.1\r\n" + HOST
    assert statuses(shared_node.raw(get + b"X: " + b"y" * 40000 + b"\r\n\r\n")) == [431]
    assert statuses(shared_node.raw(get + b"X: y\r\n" * 200 + b"\r\n")) == [431]
    assert statuses(shared_node.raw(get + b"X: y\r\n" * 20000)) == [431]
    assert statuses(shared_node.raw(b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")) \
        == [414]


def test_large_bodies_are_refused_before_they_come(make_node):
    node = make_node(http__max_body_bytes="1MiB")
    path = b"POST /v1/jobs/none/runs HTTP/1.1\r\n" + HOST
    for extra in b"", b"Expect: 100-continue\r\n":
        with connect(node) as s:
            s.sendall(path + extra + b"Content-Length: 9223372036854775807\r\n\r\n")
            answer, closed = read_until_close(s)
        assert closed and statuses(answer) == [413]
        assert b'"code":"body_too_large"' in answer
    # A job document has its own, smaller limit; one that hides its length is counted.
    put = b"PUT /v1/jobs/big HTTP/1.1\r\n" + HOST
    answer = node.raw(put + b"Content-Length: 1000000\r\n\r\n")
    assert statuses(answer) == [413]
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = node.raw(put + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 10 + b"0\r\n\r\n")
    assert statuses(answer) == [413]


def test_expect_continue(shared_node):
    head = b"PUT /v1/jobs/expect HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n"
    with connect(shared_node) as s:
        s.sendall(head + b"Content-Length: 2\r\nConnection: close\r\n\r\n")
        assert s.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b"{}")
        answer, _ = read_until_close(s)
    assert statuses(answer) == [422]
    # Refused for its type: no go-ahead.
    answer = shared_node.raw(head + b"Content-Type: text/xml\r\nContent-Length: 2\r\n\r\n")
    assert statuses(answer) == [415]


# -- connections

def test_pipelining(shared_node):
    """100 requests in one piece: 100 answers, in order."""
    paths = ["/healthz", "/v1/nothing", "/v1/jobs/x", "/readyz"]
    expected = [200, 404, 404, 200]
    data = b"".join(b"GET %s HTTP/1.1\r\n%s%s\r\n" % (
        paths[i % 4].encode(), HOST, b"Connection: close\r\n" if i == 99 else b"")
        for i in range(100))
    assert statuses(shared_node.raw(data)) == [expected[i % 4] for i in range(100)]


def test_keep_alive_and_its_end(shared_node):
    with connect(shared_node) as s:
        for _ in range(3):
            s.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert statuses(s.recv(65536)) == [200]
        s.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer, closed = read_until_close(s)
        assert closed and statuses(answer) == [200]


def test_slow_heads_and_bodies_end(make_node):
    node = make_node(http__header_timeout="1s", http__body_timeout="1s", http__idle_timeout="2s")
    slow = [connect(node) for _ in range(100)]
    body = connect(node)
    idle = connect(node)
    body.sendall(b"PUT /v1/jobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{")
    idle.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    assert statuses(idle.recv(65536)) == [200]
    start = time.monotonic()
    for i in range(8):  # a byte now and then does not help
        for s in slow:
            try:
                s.sendall(b"GET /healthz HTTP/1.1\r\n"[i:i + 1])
            except OSError:
                pass
        assert node.http("GET", "/healthz", timeout=2).status == 200
        time.sleep(0.2)
    for s in [*slow, body]:
        answer, closed = read_until_close(s)
        assert closed and statuses(answer) == [408]
    assert read_until_close(idle) == (b"", True)
    assert time.monotonic() - start < 8
    for s in [*slow, body, idle]:
        s.close()


def test_half_open_bodies_leave_nothing(shared_node, image):
    job = shared_node.http("PUT", "/v1/jobs/half", {"image": image, "command": ["true"]})
    assert job.status in (200, 201)
    spool = shared_node.data / "spool"
    before = set(os.listdir(spool))
    open_bodies = []
    for _ in range(50):
        s = connect(shared_node)
        s.sendall(b"POST /v1/jobs/half/runs HTTP/1.1\r\n" + HOST +
                  b"Content-Length: 500000\r\n\r\n" + b"x" * 300000)
        open_bodies.append(s)
    wait_for(lambda: len(set(os.listdir(spool)) - before) == 50)
    assert shared_node.http("GET", "/healthz").status == 200
    for s in open_bodies:
        s.close()
    wait_for(lambda: set(os.listdir(spool)) <= before)


def test_ten_thousand_idle_connections(make_node, record_property):
    wanted = 10000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted + 500:
        pytest.skip(f"RLIMIT_NOFILE is {hard}: too low for {wanted} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 500), hard))
    node = make_node()
    pid = node.agent_pid()
    assert pid is not None
    before = rss_kib(pid)
    connections = []
    try:
        for i in range(wanted):
            s = connect(node)
            if i % 2:  # half of them have been used
                s.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            connections.append(s)
        for s in connections[1::2]:
            assert statuses(s.recv(4096)) == [200]
        start = time.monotonic()
        assert node.http("GET", "/v1/status").status == 200
        took = time.monotonic() - start
        after = rss_kib(pid)
        metrics = node.http("GET", "/metrics").body.decode()
        held = int(re.search(r"^agent_http_connections (\d+)$", metrics, re.M)[1])
    finally:
        for s in connections:
            s.close()
    print(f"RSS {before} KiB -> {after} KiB with {wanted} connections, "
          f"{(after - before) * 1024 // wanted} bytes each; a request took {took * 1000:.1f} ms")
    record_property("rss_kib_before", before)
    record_property("rss_kib_after", after)
    assert held > wanted
    assert after - before < 12 * 1024
    assert took < 2


def test_connection_limit(make_node):
    node = make_node(http__max_connections="20")
    connections = []

    def one_more():
        """a connection that is served"""
        s = connect(node)
        s.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        if statuses(s.recv(65536)) == [200]:
            connections.append(s)
            return True
        s.close()
        return False

    for _ in range(20):
        wait_for(one_more)  # the fixture's own may still be on its way out
    answer = node.raw(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    assert statuses(answer) == [503] and b"Retry-After:" in answer
    for s in connections:
        s.close()
    wait_for(lambda: statuses(node.raw(
        b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")) == [200])


def test_client_that_never_reads(make_node):
    """Answers wait for the client in bounded memory, and the connection goes in the end."""
    node = make_node()
    pid = node.agent_pid()
    before = rss_kib(pid)
    stuck = []
    for _ in range(20):
        s = connect(node)
        s.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        try:
            for _ in range(2000):
                s.send(request * 50)
        except BlockingIOError:
            pass
        stuck.append(s)
    assert node.http("GET", "/healthz").status == 200
    after = rss_kib(pid)
    print(f"RSS {before} KiB -> {after} KiB with 20 clients that read nothing")
    assert after - before < 8 * 1024
    for s in stuck:
        s.close()


def test_many_at_a_time(shared_node):
    def some(_):
        with connect(shared_node) as s:
            for _ in range(50):
                s.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
                assert statuses(s.recv(65536)) == [200]
        return 50
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(some, range(64))) == 64 * 50


def test_abandoned_requests(shared_node):
    """Clients that vanish at any byte of a request: the node does not care."""
    request = b"PUT /v1/jobs/gone HTTP/1.1\r\n" + HOST + b"Content-Length: 20\r\n\r\n" + b"{" * 20
    for cut in range(0, len(request), 3):
        with connect(shared_node) as s:
            s.sendall(request[:cut])
    assert shared_node.http("GET", "/healthz").status == 200


# -- who asks

def ask(node, *headers):
    data = b"GET /v1/status HTTP/1.1\r\n" + b"".join(h.encode() + b"\r\n" for h in headers)
    return node.raw(data + b"Connection: close\r\n\r\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:7575",
                                  "[::1]:7575"])
def test_our_names(shared_node, host):
    assert statuses(ask(shared_node, f"Host: {host}")) == [200]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7575", "127.0.0.1.evil.example",
                                  "10.0.0.1", "2130706433", "localhost.evil.example", "[::2]"])
def test_foreign_names(shared_node, host):
    answer = ask(shared_node, f"Host: {host}")
    assert statuses(answer) == [403]
    assert b'"code":"forbidden_host"' in answer
    answer = shared_node.raw(f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                             .encode())
    assert statuses(answer) == [403]


def test_advertised_name(make_node):
    node = make_node(http__advertise="node1.example.org:7575")
    assert statuses(ask(node, "Host: node1.example.org:7575")) == [200]
    assert statuses(ask(node, "Host: node2.example.org:7575")) == [403]


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://evil.example",
                                    "http://127.0.0.1:1", "file://"])
def test_foreign_origins(shared_node, origin):
    answer = ask(shared_node, f"Host: {shared_node.addr}", f"Origin: {origin}")
    assert statuses(answer) == [403]
    assert b'"code":"forbidden_origin"' in answer


def test_own_origin(shared_node):
    assert statuses(ask(shared_node, f"Host: {shared_node.addr}",
                        f"Origin: http://{shared_node.addr}")) == [200]


@pytest.mark.parametrize("settings, word", [
    ({"http__tls_cert": "/dev/null", "http__tls_key": "/dev/null"}, "http.tls_cert"),
    ({"http__listen": "0.0.0.0:0"}, "http.listen"),
])
def test_protection_that_is_not_there_is_not_pretended(make_node, settings, word):
    node = make_node(start=False, **settings)
    node.start(wait=False)
    assert node.process.wait(10) == 2
    assert word in node.log()
