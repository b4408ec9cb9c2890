"""Next firing times against Debian's python3-croniter: random expressions, zones of the host.

Left out is what the two mean differently on purpose: days on which a zone's clock changes
(agent/triggers/README.md says what we do then), and days that are all days without being '*', as
"0-6" is, which croniter takes for '*' and cron(8) does not. AGENT_CRON_SEED repeats a run.
"""
import os
import random
import time
import zoneinfo
from datetime import datetime, timedelta, timezone

import pytest

from test_triggers import busy, put  # noqa: F401 (a fixture)

croniter = pytest.importorskip("croniter", reason="python3-croniter is not installed").croniter

SEED = int(os.environ.get("AGENT_CRON_SEED", time.time_ns() % 1000000))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
         "Pacific/Chatham", "America/St_Johns", "Africa/Casablanca", "Asia/Tokyo"]
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
DAYS = "sun mon tue wed thu fri sat".split()
FULL = {"minute": (0, 59), "hour": (0, 23), "dom": (1, 31), "month": (1, 12), "dow": (0, 6)}


def one(rng, low, high, names):
    def text(v):
        return names[v - low] if names and rng.random() < 0.3 else str(v)
    a, b = sorted((rng.randint(low, high), rng.randint(low, high)))
    kind = rng.random()
    if kind < 0.5 or a == b or (a, b) == (low, high):
        return text(a)
    if kind < 0.75:
        return f"{text(a)}-{text(b)}"
    return f"{a}-{b}/{rng.randint(1, b - a)}"


def field(rng, name, names=None):
    low, high = FULL[name]
    kind = rng.random()
    if kind < (0.5 if name in ("dom", "month", "dow") else 0.2):
        return "*"
    if kind < 0.6 and name in ("minute", "hour"):
        return f"*/{rng.randint(1, high // 2)}"
    return ",".join(one(rng, low, high, names) for _ in range(rng.randint(1, 3)))


def expression(rng):
    return " ".join([field(rng, "minute"), field(rng, "hour"), field(rng, "dom"),
                     field(rng, "month", MONTHS), field(rng, "dow", DAYS)])


def clock_changes(at, zone):
    """Does the zone's clock change on the day before or after?"""
    return len({(at + timedelta(hours=h)).astimezone(zone).utcoffset()
                for h in range(-26, 27, 2)}) > 1


def expected(expr, zone, start, n):
    """The first n times after start, as croniter has them."""
    it = croniter(expr, start.astimezone(zone).replace(tzinfo=None))  # by the clock on the wall
    return [it.get_next(datetime).replace(tzinfo=zone).astimezone(timezone.utc) for _ in range(n)]


def test_next_times(busy):  # noqa: F811
    rng = random.Random(SEED)
    print(f"AGENT_CRON_SEED={SEED}")
    compared = 0
    for round_ in range(8):
        schedules = [{"name": f"s{i}", "cron": expression(rng), "time_zone": rng.choice(ZONES)}
                     for i in range(64)]
        # A date that never comes is refused, by both: not what this is about.
        schedules = [s for s in schedules if comes(s["cron"])]
        begun = datetime.now(timezone.utc)
        put(busy, f"diff{round_}", "true", triggers={"schedules": schedules})
        for s in schedules:
            r = busy.http("POST", f"/v1/triggers/test/diff{round_}/{s['name']}", b"")
            assert r.status == 200, (s, r.body)
            ours = [datetime.fromisoformat(n["at"].replace("Z", "+00:00"))
                    for n in r.json()["next"]]
            zone = zoneinfo.ZoneInfo(s["time_zone"])
            asked = datetime.now(timezone.utc)
            theirs = expected(s["cron"], zone, begun, 6)
            # A minute may have begun between the two questions.
            theirs = [t for t in theirs if t > asked or t in ours][:5]
            for a, b in zip(ours, theirs):
                if clock_changes(a, zone) or clock_changes(b, zone):
                    break
                assert a == b, f"AGENT_CRON_SEED={SEED}: {s}: {a} is not {b}"
                compared += 1
    assert compared > 1500, compared


def comes(expr):
    """Is there a time at all, and do both read its days alike?"""
    try:
        fields = croniter.expand(expr)[0]
        if any(f == ["*"] and t != "*" for f, t in zip(fields, expr.split())):
            return False
        croniter(expr, datetime(2026, 1, 1)).get_next(datetime)
        return True
    except Exception:  # pylint: disable=broad-except # its own kinds, by version
        return False
