"""Sensors: a real mosquitto, and the node's own readings."""
import json
import shutil
import subprocess
import time

import pytest

from conftest import free_port, wait_for
from test_triggers import ended_runs, put, runs_of

pytestmark = pytest.mark.skipif(shutil.which("mosquitto") is None
                                and not shutil.os.path.exists("/usr/sbin/mosquitto"),
                                reason="mosquitto is not installed")


class Broker:
    def __init__(self, directory):
        self.port = free_port()
        self.directory = directory
        conf = directory / "mosquitto.conf"
        conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
                        f"persistence true\npersistence_location {directory}/\nuser root\n")
        self.conf = conf
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", self.conf],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def up():
            """the broker takes messages"""
            return self.publish("up", "1", check=False)
        wait_for(up, 10)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def publish(self, topic, message, check=True, qos=1):
        p = subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic,
                            "-q", str(qos), "-s" if message != "" else "-n"],
                           input=str(message).encode(), capture_output=True, timeout=10)
        assert not check or p.returncode == 0, p.stderr
        return p.returncode == 0


@pytest.fixture
def broker(tmp_path):
    b = Broker(tmp_path)
    b.start()
    yield b
    b.stop()


@pytest.fixture
def sensing(make_node, image_tar, broker):
    node = make_node(mqtt__url=f"mqtt://127.0.0.1:{broker.port}")
    node.cli("push", image_tar)
    return node


def subscribed(node, topic):
    def there():
        """the node has subscribed"""
        return f"subscribed to '{topic}'" in node.log() and "connected to the broker" in node.log()
    wait_for(there, 20)
    time.sleep(0.3)


def test_a_sensor_goes_off_once_per_crossing(sensing, broker):
    put(sensing, "hot", "cat", triggers={"sensors": [
        {"name": "hot", "mqtt": "plant/+/temperature", "when": "value > 80",
         "rearm": "value < 75"}]})
    subscribed(sensing, "plant/+/temperature")
    for value in (70, 81, 85, 78, 90):
        broker.publish("plant/7/temperature", value)
    (run,) = ended_runs(sensing, "hot", 1)
    assert run["trigger"] == "sensor"
    assert sensing.http("GET", f"/v1/runs/{run['id']}/output").body == b"81"
    # Another place has a state of its own; the first is armed again below 75.
    broker.publish("plant/8/temperature", 99)
    broker.publish("plant/7/temperature", 74)
    broker.publish("plant/7/temperature", 82)
    ended_runs(sensing, "hot", 3)
    time.sleep(0.5)
    assert len(runs_of(sensing, "hot")) == 3


def test_what_is_no_reading_does_no_harm(sensing, broker):
    put(sensing, "deep", "cat", triggers={"sensors": [
        {"mqtt": "deep/#", "when": "payload.a[0].b >= 2"}]})
    subscribed(sensing, "deep/#")
    for junk in ("", "{", "\x00\x01", "[" * 5000, "x" * 100000, '{"a":[]}',
                 '{"a":[{"b":"2"}]}'):
        broker.publish("deep/x", junk)
    broker.publish("deep/x", '{"a":[{"b":2}]}')
    (run,) = ended_runs(sensing, "deep", 1)
    assert sensing.http("GET", f"/v1/runs/{run['id']}/output").body == b'{"a":[{"b":2}]}'


def test_it_has_to_hold_for_a_time(sensing, broker):
    put(sensing, "long", "cat", triggers={"sensors": [
        {"mqtt": "door", "when": "value == 'open'", "for": "2s"}]})
    subscribed(sensing, "door")
    broker.publish("door", "open")
    broker.publish("door", "closed")
    time.sleep(2.5)
    assert runs_of(sensing, "long") == []
    broker.publish("door", "open")
    ended_runs(sensing, "long", 1)


def test_a_broker_that_goes_and_comes_back(sensing, broker):
    put(sensing, "back", "cat", triggers={"sensors": [{"mqtt": "back", "when": "value > 1"}]})
    subscribed(sensing, "back")
    broker.stop()

    def noticed():
        """the node knows"""
        return "the connection was lost" in sensing.log()
    wait_for(noticed, 20)
    broker.start()

    def again():
        """it is connected again"""
        return sensing.log().count("connected to the broker") == 2
    wait_for(again, 60)
    time.sleep(0.5)
    broker.publish("back", 2)
    ended_runs(sensing, "back", 1)


def test_the_nodes_own_readings(sensing):
    put(sensing, "mem", "cat", triggers={"sensors": [
        {"name": "m", "node": "memory.available_bytes", "when": "value > 1000"},
        {"name": "never", "node": "load1", "when": "value < 0"},
        {"name": "unknown", "node": "no.such", "when": "value >= 0"}]})
    (run,) = ended_runs(sensing, "mem", 1)
    reading = json.loads(sensing.http("GET", f"/v1/runs/{run['id']}/output").body)
    assert reading["reading"] == "memory.available_bytes" and reading["value"] > 1000
    time.sleep(2.2)
    assert len(runs_of(sensing, "mem")) == 1


def test_a_broker_url_that_is_none(make_node):
    node = make_node(start=False, mqtt__url="http://127.0.0.1:1")
    node.start(wait=False)
    assert node.process.wait(20) != 0
    assert "mqtt.url begins with mqtt:// or mqtts://" in node.log()
