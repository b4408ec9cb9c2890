"""What nothing needs any more goes: layers of removed images, runs beyond retention, directories
that belong to no run."""
import shutil

from conftest import IMAGE, wait_for


def layers(node):
    return {p.name for p in (node.data / "layers").iterdir() if len(p.name) == 64}


def run_once(node, payload=b"x"):
    node.cli("submit", IMAGE, "--wait", "--", "/bin/sh", "-c", "cat; echo log >&2", stdin=payload)
    return node.http("GET", "/v1/runs?limit=1").json()["runs"][0]["id"]


def test_layers_go_with_their_last_image(node, image_tar):
    node.cli("push", image_tar, IMAGE)
    run_once(node)
    assert len(layers(node)) == 1
    assert node.http("DELETE", "/v1/images/lab/busybox?tag=1").status == 200

    def gone():
        """the layer is removed"""
        return not layers(node)
    wait_for(gone)
    assert node.cli("submit", IMAGE, "--wait", "--", "/bin/true", check=False).returncode == 125
    # It can come back: everything is unpacked anew.
    node.cli("push", image_tar, IMAGE)
    run_once(node)
    assert len(layers(node)) == 1


def test_runs_go_after_their_retention(node, image_tar):
    node.cli("push", image_tar, IMAGE)
    run = run_once(node)
    assert list((node.data / "runs").glob(run + ".*"))
    assert (node.data / "spool" / run).exists()
    node.stop()
    node.settings["store.retention"] = "1s"
    node.start()

    def gone():
        """record, directory and payload are removed"""
        return node.http("GET", f"/v1/runs/{run}").status == 404 and \
            not list((node.data / "runs").glob(run + "*")) and \
            not (node.data / "spool" / run).exists()
    wait_for(gone, 30)
    assert len(layers(node)) == 1


def test_directories_without_a_run_go_at_the_start(node, image_tar):
    node.cli("push", image_tar, IMAGE)
    run = run_once(node)
    node.stop()
    runs = node.data / "runs"
    # As if the node had died between forgetting the run and removing its directory.
    orphan = "00000000000000000000000001.1"
    shutil.copytree(runs / (run + ".1"), runs / orphan)
    node.start()

    def gone():
        """the orphan is removed"""
        return not (runs / orphan).exists()
    wait_for(gone)
    assert node.http("GET", f"/v1/runs/{run}/output").body == b"x"
