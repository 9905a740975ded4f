"""The workload's popularity, apart from locust, whose import would patch this process."""

import subprocess
import sys

import pytest

PROGRAM = """
import random, runpy
names = runpy.run_path("loadtests/locustfile.py")
rng = random.Random(7)
zipf = names["Zipf"](100, 1.0)
draws = [zipf.draw(rng) for _ in range(20000)]
assert min(draws) == 0 and max(draws) < 100
# The harmonic sum of 100 terms is 5.187: rank 0 has a share of 0.1928, with a deviation of 0.0028 here.
assert abs(draws.count(0) / 20000 - 0.1928) < 0.014, draws.count(0)
assert b"".join(names["chunks"](b"x" * 200000)) == b"x" * 200000
flat = names["Zipf"](3, 0.0)
assert {flat.draw(rng) for _ in range(1000)} == {0, 1, 2}
"""


def test_the_popularity_follows_zipf(request):
    pytest.importorskip("gevent", reason="locust is not installed")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
