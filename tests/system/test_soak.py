"""The short form of soak.py: the same faults for half a minute. SOAK_SEED repeats a run,
SOAK_SECONDS makes it longer; `make soak MINUTES=30` is the long form."""
import os
import shutil
import time

import pytest

import soak


def test_nothing_accepted_is_lost_under_faults():
    if not all(shutil.which(tool) for tool in ("nsenter", "nft", "ip", "tc")):
        pytest.skip("nsenter, nft, ip or tc is not installed")
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    r = soak.soak(float(os.environ.get("SOAK_SECONDS", 25)), seed, rate=8)
    assert r["runs"] > 20 and sum(r["faults"].values()) > 5, r
    assert (r["lost"], r["told in two ways"], r["failed for no cause"], r["leftovers"]) == \
        (0, 0, 0, 0), (seed, r)
