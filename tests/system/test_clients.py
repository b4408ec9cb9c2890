"""Real clients push and pull: skopeo, buildah, podman, umoci, and Docker's engine where it can be
started. What comes back has the digests that went in."""
import hashlib
import json
import os
import shutil
import subprocess

import pytest

from conftest import Node, wait_for

BUSYBOX = "/bin/busybox"


@pytest.fixture(scope="module")
def reg():
    node = Node().start()
    yield node
    node.close()


def sh(*args, check=True, env=None, timeout=180, **more):
    p = subprocess.run([str(a) for a in args], capture_output=True,
                       timeout=timeout, env={**os.environ, **(env or {})}, **more)
    if check:
        assert p.returncode == 0, f"{args}: exit {p.returncode}\n" \
            f"{p.stderr.decode(errors='replace')[-3000:]}"
    return p.stdout


def skopeo(*args, **more):
    return sh("skopeo", *args, **more)


def raw_manifest(reg, name, tag):
    r = reg.http("GET", f"/v2/{name}/manifests/{tag}", headers={"Accept": "*/*"})
    assert r.status == 200, r.body
    assert r.headers["Docker-Content-Digest"] == "sha256:" + hashlib.sha256(r.body).hexdigest()
    return r.body


def layout_digests(path):
    """Digest of the manifest and of everything it names, in an OCI layout; every blob is hashed."""
    index = json.loads((path / "index.json").read_bytes())
    d = index["manifests"][0]["digest"]
    m = json.loads((path / "blobs/sha256" / d[7:]).read_bytes())
    all_of = [d, m["config"]["digest"], *(x["digest"] for x in m["layers"])]
    for x in all_of:
        assert hashlib.sha256((path / "blobs/sha256" / x[7:]).read_bytes()).hexdigest() == x[7:]
    return all_of


def run_line(reg, image, *command):
    """What a run of the image writes."""
    p = reg.cli("submit", image, "--wait", *(["--", *command] if command else []), timeout=120)
    return p.stdout.decode()


def test_skopeo_round_trip(reg, image_tar, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    skopeo("copy", f"docker-archive:{image_tar}", f"oci:{a}:x")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{a}:x", f"docker://{reg.addr}/sk/job:1")
    skopeo("copy", "--src-tls-verify=false", f"docker://{reg.addr}/sk/job:1", f"oci:{b}:x")
    assert layout_digests(a) == layout_digests(b)
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{reg.addr}/sk/job:1"))
    assert seen["Digest"] == layout_digests(a)[0] and seen["RepoTags"] == ["1"]
    skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false",
           f"docker://{reg.addr}/sk/job:1",
           f"docker://{reg.addr}/sk/other:2")  # mounts across repositories
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{reg.addr}/sk/other"))
    assert tags["Tags"] == ["2"]
    skopeo("delete", "--tls-verify=false", f"docker://{reg.addr}/sk/other:2")
    p = subprocess.run(["skopeo", "inspect", "--tls-verify=false",
                       f"docker://{reg.addr}/sk/other:2"], capture_output=True)
    assert p.returncode != 0 and b"manifest unknown" in p.stderr
    assert raw_manifest(reg, "sk/job", "1")
    assert run_line(reg, "sk/job:1", "/bin/sh", "-c", "echo from $0") == "from /bin/sh\n"


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "dir"])
def test_skopeo_formats(reg, image_tar, tmp_path, kind):
    skopeo(
        "copy",
        "--dest-tls-verify=false",
        f"docker-archive:{image_tar}",
        f"docker://{reg.addr}/fmt/{kind}:1")
    target = {"docker-archive": f"docker-archive:{tmp_path}/x.tar:a:b",
              "oci-archive": f"oci-archive:{tmp_path}/x.tar:b",
              "dir": f"dir:{tmp_path}/x"}[kind]
    skopeo("copy", "--src-tls-verify=false", f"docker://{reg.addr}/fmt/{kind}:1", target)
    skopeo("copy", "--dest-tls-verify=false", target, f"docker://{reg.addr}/fmt/{kind}:2")
    if kind == "dir":
        assert raw_manifest(reg, f"fmt/{kind}", "1") == raw_manifest(reg, f"fmt/{kind}", "2")
    # The others have manifests of their own; what is in the layers stays.
    config = [json.loads(skopeo("inspect", "--config", "--tls-verify=false",
                                f"docker://{reg.addr}/fmt/{kind}:{t}"))
              for t in (1, 2)]
    assert config[0]["rootfs"] == config[1]["rootfs"]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """Runs buildah in a store of its own, which has jobimg:oci and jobimg:docker."""
    top = tmp_path_factory.mktemp("buildah")
    store = ["--root", top / "s", "--runroot", top / "r", "--storage-driver", "vfs"]

    def b(*args, program="buildah"):
        return sh(program, *store, *args, env={"BUILDAH_ISOLATION": "chroot"}).decode().strip()
    c = b("from", "scratch")
    (top / "passwd").write_text("root:x:0:0::/root:/bin/sh\njob:x:1234:1234::/home/job:/bin/sh\n")
    (top / "group").write_text("root:x:0:\njob:x:1234:\nextra:x:2000:job\n")
    b("add", "--chmod", "0755", c, BUSYBOX, "/bin/busybox")
    b("add", c, top / "passwd", "/etc/passwd")
    b("add", c, top / "group", "/etc/group")
    b("run", c, "--", "/bin/busybox", "--install", "-s", "/bin")
    b("config", "--entrypoint", '["/bin/sh","-c"]', "--cmd", "'id; echo $JOBVAR; pwd'",
      "--env", "JOBVAR=one",
      "--workingdir", "/work", "--user", "job:job", "--label", "a=b", "--stop-signal", "SIGUSR1", c)
    b("commit", "--format", "oci", c, "jobimg:oci")
    b("commit", "--format", "docker", c, "jobimg:docker")
    b.top = top
    yield b
    b("rm", "--all")
    b("rmi", "--all", "--force")
    shutil.rmtree(top, ignore_errors=True)


@pytest.mark.parametrize("name,extra", [("oci", []),
                         ("docker", []), ("oci", ["--compression-format", "zstd"])])
def test_buildah_round_trip(reg, buildah, tmp_path, name, extra):
    target = f"{reg.addr}/team/{name}{len(extra)}:1"
    buildah(
        "push",
        "--tls-verify=false",
        "--digestfile",
        tmp_path / "d",
        *extra,
        f"jobimg:{name}",
        f"docker://{target}")
    d = (tmp_path / "d").read_text()
    assert hashlib.sha256(raw_manifest(reg, f"team/{name}{len(extra)}", "1")).hexdigest() == d[7:]
    image = buildah("pull", "--tls-verify=false", target)
    seen = json.loads(buildah("inspect", "--type", "image", image))
    assert seen["FromImageDigest"] == d
    out = run_line(reg, f"team/{name}{len(extra)}:1").splitlines()
    assert out[0].startswith("uid=1234") and out[1:] == ["one", "/work"]


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd:chunked"])
def test_compressed_layers(reg, buildah, tmp_path, form):
    """Layers of their own, so that no cache stands in for them: what comes is so compressed, runs,
    and goes back."""
    name = f"form{form.replace(':', '')}"
    c = buildah("from", "scratch")
    (tmp_path / "mark").write_text(f"made as {form}\n" * 1000)
    buildah("add", "--chmod", "0755", c, BUSYBOX, f"/{name}/busybox")
    buildah("add", c, tmp_path / "mark", "/mark")
    buildah("config", "--cmd", f'["/{name}/busybox","head","-n","1","/mark"]', c)
    buildah("commit", "--format", "oci", c, f"{name}:1")
    target = f"{reg.addr}/team/{name}:1"
    buildah("push", "--tls-verify=false", "--compression-format", form, f"{name}:1",
            f"docker://{target}")
    layers = json.loads(raw_manifest(reg, f"team/{name}", "1"))["layers"]
    assert all(x["mediaType"].endswith("+" + form.split(":", maxsplit=1)[0]) for x in layers)
    if form == "zstd:chunked":
        assert any("chunked" in key for x in layers for key in x.get("annotations", {}))
    assert reg.cli("submit", f"team/{name}:1", "--wait").stdout == f"made as {form}\n".encode()
    image = buildah("pull", "--tls-verify=false", target)
    assert buildah("inspect", "--type", "image", image)


def test_podman_round_trip(reg, buildah, tmp_path):
    target = f"{reg.addr}/pod/job:1"
    buildah(
        "push",
        "--tls-verify=false",
        "--digestfile",
        tmp_path / "d",
        "jobimg:oci",
        target,
        program="podman")
    buildah("pull", "--tls-verify=false", target, program="podman")
    seen = json.loads(buildah("image", "inspect", target, program="podman"))
    assert f"{reg.addr}/pod/job@{(tmp_path / 'd').read_text()}" in seen[0]["RepoDigests"]
    buildah("rmi", target, program="podman")


def test_multi_arch_index(reg, buildah):
    buildah("manifest", "create", "m")
    buildah("manifest", "add", "--os", "linux", "--arch", "arm64", "m", "localhost/jobimg:docker")
    buildah("manifest", "add", "--os", "linux", "--arch", "amd64", "m", "localhost/jobimg:oci")
    buildah(
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "m",
        f"docker://{reg.addr}/multi/job:1")
    index = json.loads(raw_manifest(reg, "multi/job", "1"))
    assert {x["platform"]["architecture"] for x in index["manifests"]} == {"arm64", "amd64"}
    skopeo("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false",
           f"docker://{reg.addr}/multi/job:1",
           f"docker://{reg.addr}/multi2/job:1")
    assert raw_manifest(reg, "multi/job", "1") == raw_manifest(reg, "multi2/job", "1")
    assert run_line(reg, "multi/job:1").startswith("uid=1234")


def test_umoci_image(reg, tmp_path):
    """Whiteouts, an opaque directory in an unpadded tar, and an entry called "/"."""
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed")
    layout, root = tmp_path / "l", tmp_path / "root"
    for d in ("bin", "etc", "srv/old"):
        (root / d).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/sh")
    (root / "bin/sh").chmod(0o755)
    (root / "etc/gone").write_text("x")
    (root / "srv/old/file").write_text("x")
    new = tmp_path / "new"
    new.mkdir()
    (new / "fresh").write_text("y")
    sh("umoci", "init", "--layout", layout)
    sh("umoci", "new", "--image", f"{layout}:job")
    sh("umoci", "insert", "--image", f"{layout}:job", root, "/")
    sh("umoci", "insert", "--image", f"{layout}:job", "--whiteout", "/etc/gone")
    sh("umoci", "insert", "--image", f"{layout}:job", "--opaque", new, "/srv")
    sh("umoci", "config", "--image", f"{layout}:job", "--architecture", "amd64", "--os", "linux",
       "--config.entrypoint", "/bin/sh", "--config.cmd", "-c", "--config.cmd", "echo /srv/* /etc/*")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:job", f"docker://{reg.addr}/um/job:1")
    assert "/srv/fresh " in run_line(reg, "um/job:1")
    assert "/srv/old" not in run_line(reg,
                                      "um/job:1") and "/etc/gone" not in run_line(reg,
                                                                                  "um/job:1")


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """Docker's engine, if it is installed and starts here."""
    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    top = tmp_path_factory.mktemp("docker")
    (top / "config").write_text("{}")
    host = f"unix://{top}/docker.sock"
    with open(top / "log", "wb") as log:
        p = subprocess.Popen(["dockerd", "--data-root", top / "data", "--exec-root", top / "exec",
                              "-p", top / "pid", "-H", host,
                              "--iptables=false", "--ip6tables=false", "--bridge=none",
                              "--storage-driver=vfs",
                              "--config-file", top / "config"], stdout=log, stderr=log)

    def d(*args, check=True):
        return sh("docker", "-H", host, *args, check=check, env={"DOCKER_BUILDKIT": "0"})

    def up():
        """the engine answers, or has ended"""
        return p.poll() is not None or subprocess.run(
            ["docker", "-H", host, "info"], capture_output=True).returncode == 0
    wait_for(up, 60, 0.2)
    if p.poll() is not None:
        pytest.skip(f"dockerd does not start here: {(top / 'log').read_text()[-300:]}")
    yield d
    p.terminate()
    p.wait(30)


def test_docker_round_trip(reg, docker, image_tar):
    docker("load", "-i", image_tar)
    target = f"{reg.addr}/dk/job:1"
    docker("tag", "lab/busybox:1", target)
    docker("push", target)
    d = "sha256:" + hashlib.sha256(raw_manifest(reg, "dk/job", "1")).hexdigest()
    docker("rmi", target)
    docker("pull", target)
    assert f"{reg.addr}/dk/job@{d}" in docker("image",
                                              "inspect",
                                              "-f",
                                              "{{.RepoDigests}}",
                                              target).decode()


def test_docker_save_and_pull_by_digest(reg, docker, image_tar, tmp_path):
    """What 'docker save' writes runs after 'agent push'; an image comes back by its digest."""
    docker("load", "-i", image_tar)
    docker("tag", "lab/busybox:1", "saved/x:2")
    docker("save", "-o", tmp_path / "saved.tar", "saved/x:2")
    reg.cli("push", tmp_path / "saved.tar")
    assert reg.cli("submit", "saved/x:2", "--wait", "--", "echo", "hi").stdout == b"hi\n"
    d = "sha256:" + hashlib.sha256(raw_manifest(reg, "saved/x", "2")).hexdigest()
    docker("pull", f"{reg.addr}/saved/x@{d}")
    assert d in docker("image", "ls", "--digests").decode()
