"""Network nat against real servers: nginx and PostgreSQL of Debian, in the world's namespace."""
import os
import pathlib
import shutil
import struct
import subprocess

import pytest

from conftest import PREFIX, wait_for
from netlab import NODE4
from sandbox_client import Launcher
from test_nat import DRIVER, NAT, OPEN4, OPEN6, fill, lab  # noqa: F401

POSTGRES = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the launcher needs root")


@pytest.fixture(scope="module")
def box(lab):  # noqa: F811
    b = Launcher(DRIVER, enter=lab.node.enter())
    b.image = [b.layer(fill)]
    yield b
    b.close()


def sh(box, script, **spec):
    run = box.run(box.image, ["sh", "-c", script], network=NAT, **spec)
    end = box.wait_ended(run, seconds=60)
    return end, box.output(run)


def listens(lab, addr, port):  # noqa: F811
    def reached():
        """the server listens"""
        out = lab.world.run("ss", "-Hltn", f"src {addr}:{port}").stdout
        return out.strip() != ""
    wait_for(reached, 30)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx(box, lab, tmp_path):  # noqa: F811
    body = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(body)
    tmp_path.chmod(0o755)
    for d in tmp_path.parents:
        if d.owner() == "root" and str(d).startswith("/tmp/"):
            d.chmod(d.stat().st_mode | 0o011)
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"""daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error;
events {{}}
http {{ access_log {tmp_path}/access; client_body_temp_path {tmp_path}/b;
server {{ listen {OPEN4}:8080; listen [{OPEN6}]:8080; root {tmp_path}; }} }}""")
    lab.world.popen("nginx", "-p", tmp_path, "-c", conf, stderr=subprocess.DEVNULL)
    listens(lab, OPEN4, 8080)
    for url in (f"http://{OPEN4}:8080/file", f"http://[{OPEN6}]:8080/file"):
        end, out = sh(box, f"wget -q -O - {url}", egress=[("*", "tcp", 8080, 8080)])
        assert end["exit_code"] == 0 and out == body
        received = end["end"][23] - end["base"][23]
        assert len(body) < received < len(body) * 1.2
    end, out = sh(box, f"wget -q -T 5 -O - http://{OPEN4}:8080/file",
                  egress=[(f"{OPEN4}/32", "tcp", 80, 80)])
    assert end["exit_code"] != 0 and out == b""
    assert NODE4 in (tmp_path / "access").read_text()


def startup(user):
    text = b"user\0" + user + b"\0database\0" + user + b"\0\0"
    return struct.pack(">II", 8 + len(text), 196608) + text


def message(kind, text):
    return kind + struct.pack(">I", 4 + len(text)) + text


@pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed")
def test_postgresql(box, lab):  # noqa: F811
    data = pathlib.Path(f"/tmp/{PREFIX}pg")
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    server = None
    try:
        subprocess.run([*as_postgres, POSTGRES[-1].with_name("initdb"), "-D", data, "-A", "trust",
                        "--no-sync", "-N"], check=True, capture_output=True, cwd="/")
        with open(data / "pg_hba.conf", "a") as f:
            f.write(f"host all all {NODE4}/32 trust\n")
        server = lab.world.popen(*as_postgres, POSTGRES[-1], "-D", data, "-k", data, "-c",
                                 f"listen_addresses={OPEN4}", "-c", "fsync=off",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        listens(lab, OPEN4, 5432)
        say = startup(b"postgres") + message(b"Q", b"select 6 * 7 as answer\0") + message(b"X", b"")
        text = "".join(f"\\{b:03o}" for b in say)
        script = f"(printf '{text}'; sleep 1) | nc -w 5 {OPEN4} 5432"
        end, out = sh(box, script, egress=[(f"{OPEN4}/32", "tcp", 5432, 5432)])
        assert b"answer" in out and b"\0\0\0\x0242" in out, (end, out)
        end, out = sh(box, script, egress=[(f"{OPEN4}/32", "tcp", 5433, 5433)])
        assert out == b""
    finally:
        if server:
            subprocess.run([*as_postgres, POSTGRES[-1].with_name("pg_ctl"), "-D", data, "-m",
                            "immediate", "stop"], capture_output=True, cwd="/")
            server.wait(20)
        shutil.rmtree(data)


@pytest.mark.parametrize("user", ["", "app"])
@pytest.mark.parametrize("probe", ["probe_calls", "probe_view"])
def test_the_isolation_is_the_same(box, probe, user):
    """The probes of network none, on network nat: only the interface may differ."""
    from test_nat import PROBES
    layer = box.layer(lambda root: (fill(root), shutil.copy(PROBES / probe, root / "bin")))
    run = box.run([layer], [probe], network=NAT, user=user, hostname="probe-host")
    end = box.wait_ended(run, seconds=60)
    lines = box.output(run).decode(errors="replace").splitlines()
    failed = {x.split(":")[0] for x in lines if x.startswith("FAIL")}
    assert end["reason"] == "exit", end
    assert len([x for x in lines if x.startswith("ok ")]) > 90
    # Its resolver is on its own loopback, and it has an interface.
    assert failed == ({"FAIL /etc/resolv.conf", "FAIL only loopback"} if probe == "probe_view"
                      else set())
