"""Images from other registries: Debian's docker-registry as an upstream (plain, with Basic, with
TLS), another agent as one, and upstreams that lie, stall or never stop."""
import base64
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import pytest

import lab_image
from conftest import free_port, wait_for
from lab_image import entry, layer

REGISTRY = shutil.which("docker-registry")
OPENSSL = shutil.which("openssl")


class Upstream:
    """docker-registry with data of its own."""

    def __init__(self, path, tls=None, htpasswd=None):
        self.port = free_port()
        self.addr = f"127.0.0.1:{self.port}"
        self.path = path
        lines = ["version: 0.1", "log: {level: error}", "storage:",
                 f"  filesystem: {{rootdirectory: {path}/data}}", "  delete: {enabled: true}",
                 "http:", f"  addr: {self.addr}"]
        if tls:
            lines += ["  tls:", f"    certificate: {tls}/cert.pem", f"    key: {tls}/key.pem"]
        if htpasswd:
            (path / "htpasswd").write_text(htpasswd)
            lines += ["auth:", f"  htpasswd: {{realm: lab, path: {path}/htpasswd}}"]
        (path / "config.yml").write_text("\n".join(lines) + "\n")
        self.start()

    def start(self):
        self.process = subprocess.Popen([REGISTRY, "serve", str(self.path / "config.yml")],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=open(self.path / "log", "ab"))

        def up():
            """docker-registry listens"""
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        wait_for(up)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def upstream(tmp_path):
    if REGISTRY is None:
        pytest.skip("docker-registry is not installed")
    made = []

    def make(**more):
        path = tmp_path / f"upstream{len(made)}"
        path.mkdir()
        made.append(Upstream(path, **more))
        return made[-1]
    yield make
    for u in made:
        u.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """An authority and a certificate for 127.0.0.1."""
    d = tmp_path_factory.mktemp("tls")
    d.chmod(0o755)

    def run(*args):
        subprocess.run([OPENSSL, *args], check=True, capture_output=True, cwd=d)
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
        "2", "-subj", "/CN=lab ca", "-keyout", "ca.key", "-out", "ca.pem")
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
        "/CN=registry", "-keyout", "key.pem", "-out", "csr.pem")
    (d / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    run("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "ext", "-out", "cert.pem")
    for f in d.iterdir():
        f.chmod(0o644)
    return d


def copy(image_tar, addr, name, *args):
    subprocess.run(["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", *args,
                    f"docker-archive:{image_tar}", f"docker://{addr}/{name}"], check=True,
                   capture_output=True, timeout=60)


def hello(node, name):
    p = node.cli("submit", name, "--wait", "--", "echo", "hello")
    assert p.stdout == b"hello\n"


def count(node, name):
    body = node.http("GET", "/metrics").body.decode()
    return sum(float(x.rsplit(" ", 1)[1]) for x in body.splitlines() if x.startswith(name))


def test_by_tag_and_digest(upstream, make_node, image_tar):
    u = upstream()
    copy(image_tar, u.addr, "lib/busybox:1")
    node = make_node(registry__upstreams=f"hub=http://{u.addr}")
    hello(node, "hub/lib/busybox:1")
    digest = node.http("HEAD", "/v2/hub/lib/busybox/manifests/1").headers["Docker-Content-Digest"]
    # The name is here now; the upstream is not asked again.
    u.stop()
    hello(node, "hub/lib/busybox:1")
    hello(node, f"hub/lib/busybox@{digest}")
    u.start()
    fresh = make_node(registry__upstreams=f"*=http://{u.addr}")
    hello(fresh, f"lib/busybox@{digest}")
    p = fresh.cli("submit", "lib/none:1", "--wait", check=False)
    assert p.returncode == 125 and b"lib/none" in p.stderr, p.stderr
    p = fresh.cli("submit", f"lib/busybox@sha256:{'0' * 64}", "--wait", check=False)
    assert p.returncode == 125
    p = node.cli("submit", "elsewhere/x:1", "--wait", check=False)
    assert p.returncode == 125 and b"elsewhere/x" in p.stderr


def test_credentials_and_tls(upstream, certificate, make_node, image_tar, tmp_path):
    # htpasswd of "joe", "secret" (bcrypt)
    secret = "joe:" + bcrypt_of_secret(tmp_path) + "\n"
    u = upstream(tls=certificate, htpasswd=secret)
    copy(image_tar, u.addr, "p/busybox:1", "--dest-creds", "joe:secret")
    auth = base64.b64encode(b"joe:secret").decode()
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"auths": {u.addr: {"auth": auth}}}))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"auths": {u.addr: {"username": "joe", "password": "x"}}}))
    for f in (good, wrong):
        f.chmod(0o644)
    for p in (tmp_path, *tmp_path.parents):
        if p.stat().st_uid == 0 and str(p).startswith("/tmp/"):
            p.chmod(0o755)
    settings = {"registry__upstreams": f"p=https://{u.addr}/p"}
    node = make_node(**settings, registry__credentials_file=good,
                     registry__ca_file=certificate / "ca.pem")
    hello(node, "p/busybox:1")
    for more in ({"registry__credentials_file": wrong,
                  "registry__ca_file": certificate / "ca.pem"},
                 {"registry__ca_file": certificate / "ca.pem"},
                 {"registry__credentials_file": good}):
        refused = make_node(**settings, **more)
        p = refused.cli("submit", "p/busybox:1", "--wait", check=False)
        assert p.returncode == 125, p.stdout
        assert b"secret" not in p.stderr and b"secret" not in refused.log().encode()


def bcrypt_of_secret(tmp_path):
    """docker-registry takes bcrypt only."""
    import crypt
    return crypt.crypt("secret", "$2b$05$" + "abcdefghijklmnopqrstuu")


def test_mirrors(upstream, make_node, image_tar):
    """The first one is down, the second does not have it, the third does."""
    empty, full = upstream(), upstream()
    copy(image_tar, full.addr, "m/busybox:1")
    node = make_node(registry__upstreams=f"m=http://127.0.0.1:{free_port()}/m|"
                                         f"http://{empty.addr}/m|http://{full.addr}/m")
    hello(node, "m/busybox:1")


def test_many_at_a_time(upstream, make_node, image_tar):
    """Thirty runs of an image that is not here: one pull."""
    u = upstream()
    copy(image_tar, u.addr, "t/busybox:1")
    node = make_node(registry__upstreams=f"t=http://{u.addr}/t")
    runs = []

    def one():
        runs.append(node.submit("t/busybox:1", "--", "true"))
    threads = [threading.Thread(target=one) for _ in range(30)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(runs) == 30
    for r in runs:
        assert node.wait_run(r)["state"] == "succeeded"


def test_apply_pulls(upstream, make_node, image_tar, tmp_path):
    u = upstream()
    copy(image_tar, u.addr, "a/busybox:1")
    node = make_node(registry__upstreams=f"a=http://{u.addr}/a")
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"name": "warm", "image": "a/busybox:1", "command": ["echo", "hi"]}))
    node.cli("apply", "-f", job)

    def here():
        """apply has pulled the image"""
        return node.http("HEAD", "/v2/a/busybox/manifests/1").status == 200
    wait_for(here)
    u.stop()
    assert node.cli("submit", "warm", "--wait").stdout == b"hi\n"
    u.start()


def test_proxy(upstream, make_node, image_tar, tmp_path):
    """A client pulls through the node; then the upstream is not needed any more."""
    u = upstream()
    copy(image_tar, u.addr, "x/busybox:1")
    node = make_node(registry__upstreams=f"x=http://{u.addr}/x", registry__proxy="yes")

    def pull(to):
        subprocess.run(["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false",
                        f"docker://{node.addr}/x/busybox:1", f"dir:{tmp_path}/{to}"], check=True,
                       capture_output=True, timeout=60)
        return sorted((f.name, hashlib.sha256(f.read_bytes()).hexdigest())
                      for f in (tmp_path / to).iterdir())
    first = pull("one")
    u.stop()
    assert pull("two") == first and len(first) >= 3
    assert node.http("GET", "/v2/x/none/manifests/1").status == 502
    assert node.http("GET", "/v2/y/none/manifests/1").status == 404
    u.start()
    assert node.http("GET", "/v2/x/none/manifests/1").status == 404
    # Without the setting nothing is fetched for others.
    other = make_node(registry__upstreams=f"x=http://{u.addr}/x")
    assert other.http("GET", "/v2/x/busybox/manifests/1").status == 404


def test_another_agent(make_node, image_tar):
    """Any node is an upstream: its /v2 is a registry."""
    a = make_node()
    a.cli("push", image_tar)
    b = make_node(registry__upstreams=f"*=http://{a.addr}")
    hello(b, "lab/busybox:1")


def test_interrupted(make_node, tmp_path):
    """The source dies in the middle of a large layer and comes back: it goes on from there."""
    a = make_node()
    big = layer(entry("file", "big", os.urandom(48 << 20)))
    lab_image.push(a, "big/x:1", [lab_image.base_layer(), big], blobs=None)
    proxy = Cutting(a.port, cut_after=8 << 20)
    b = make_node(registry__upstreams=f"*=http://127.0.0.1:{proxy.port}")
    p = b.cli("submit", "big/x:1", "--wait", "--", "wc", "-c", "/big")
    assert p.stdout.split()[0] == str(48 << 20).encode()
    assert proxy.cuts >= 3 and proxy.passed < 64 << 20, (proxy.cuts, proxy.passed)
    proxy.close()


class Cutting:
    """A TCP proxy that cuts each connection after so many bytes of answers."""

    def __init__(self, to, cut_after):
        self.to, self.cut_after = to, cut_after
        self.cuts = self.passed = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            s = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self.pump, args=(c, s, None), daemon=True).start()
            threading.Thread(target=self.pump, args=(s, c, self.cut_after), daemon=True).start()

    def pump(self, a, b, limit):
        left = limit
        try:
            while data := a.recv(65536):
                if left is not None:
                    self.passed += len(data)
                    left -= len(data)
                    if left < 0:
                        self.cuts += 1
                        break
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.socket.close()


# -- upstreams that misbehave

class Bad(http.server.BaseHTTPRequestHandler):
    """What an upstream may do to us, by the repository's name."""
    protocol_version = "HTTP/1.1"
    text = b"{}"

    def log_message(self, *args):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", lab_image.MANIFEST)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(16384):  # a gigabyte at most
            self.wfile.write(piece)
            self.server.sent += 65536

    def do_GET(self):
        kind = self.path.split("/")[2]
        manifest = "/manifests/" in self.path
        try:
            if kind == "endless" or (kind == "endless-blob" and not manifest):
                self.endless()
            elif kind == "silent":
                time.sleep(self.server.silence)
            elif kind == "loop":
                self.answer(302, b"", Location=self.path)
            elif kind == "away":
                self.answer(302, b"", Location="file:///etc/passwd")
            elif kind == "up":
                self.answer(302, b"", Location="https://127.0.0.1:1/")
            elif kind == "html":
                self.answer(200, b"<html>", Content_Type="text/html")
            elif kind == "token":
                self.answer(401, b"", WWW_Authenticate='Bearer realm="file:///x",service="y"')
            elif kind == "tokens":
                self.answer(401, b"", WWW_Authenticate="Bearer realm=\"http://127.0.0.1:1/\"")
            elif kind == "rude":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nX: \0\r\n\r\n")
            elif manifest:
                self.answer(200, self.server.manifest, Content_Type=lab_image.MANIFEST,
                            Docker_Content_Digest="sha256:../../../etc/passwd")
            elif kind == "wrong":
                self.answer(200, b"\xff" * self.server.size)
            elif kind == "short":
                self.answer(200, b"\xff")
            else:
                self.answer(404, b"")
        except OSError:
            pass


def test_bad_upstreams(make_node):
    """Each run is refused with a reason; memory and disk stay bounded; the node goes on."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bad)
    server.daemon_threads = True
    server.sent, server.silence, server.size = 0, 6, 1 << 20
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    big = {"mediaType": lab_image.LAYER, "digest": "sha256:" + "1" * 64, "size": server.size}
    server.manifest = json.dumps({
        "schemaVersion": 2, "mediaType": lab_image.MANIFEST,
        "config": lab_image.descriptor(lab_image.CONFIG, config), "layers": [big]}).encode()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    node = make_node(registry__upstreams=f"*=http://127.0.0.1:{server.server_address[1]}",
                     registry__pull_timeout="4s")
    pid = node.agent_pid()
    for kind in ("endless", "endless-blob", "silent", "loop", "away", "up", "html", "token",
                 "tokens", "rude", "wrong", "short", "none"):
        p = node.cli("submit", f"{kind}/x:1", "--wait", check=False)
        assert p.returncode == 125 and p.stderr, kind
        assert node.http("GET", "/readyz").status == 200
    rss = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    assert rss < 64 << 20, rss

    def empty():
        """nothing is left of what came"""
        return not list((node.data / "blobs" / "uploads").iterdir())
    wait_for(empty)
    assert server.sent < 600 << 20, server.sent
    server.shutdown()


@pytest.mark.parametrize("bad", ["x", "x=ftp://y", "X=http://y", "x=http://y/?z"])
def test_settings_are_checked(make_node, bad):
    with pytest.raises(AssertionError, match="upstreams"):
        make_node(registry__upstreams=bad)
