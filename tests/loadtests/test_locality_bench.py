"""The processes of the comparison: services and load agree with the simulation, and a run through a proxy works."""

import json
import os
import subprocess
import sys
import time

import pytest

from loadtests.locality.bench import free_ports
from loadtests.locality.peers import BY_NAME as PEERS
from loadtests.locality.peers import (
    LOAD,
    SERVICES,
    Place,
    envoy_config,
    haproxy_config,
    homeport_config,
    told,
)
from loadtests.locality.physics import Endpoint
from loadtests.locality.trace import BY_NAME, Trace
from loadtests.peers.processes import Children
from proxy.config.load import load_file

LIMIT_S = 60.0


def place_in(directory, scenario="shift"):
    return Place(8000, tuple(range(9000, 9008)), directory, BY_NAME[scenario], 1)


def test_service_and_load_do_what_the_simulation_does(tmp_path):
    """All requests to one endpoint: it finds its cache as a simulated one does, and takes as long."""
    trace = Trace(BY_NAME["flat"], 1, 30.0, 1.0, 0.2)
    port, *others = free_ports(8)
    told = ["--scenario", "flat", "--seed", "1"]
    cores = sorted(os.sched_getaffinity(0))
    with Children(tmp_path) as children:
        ports = [str(each) for each in (port, *others)]
        children.start(
            "services", [*SERVICES, *ports, *told, "--change-at", "9", "--silent"], cores
        ).wait_for_port(port)
        file = tmp_path / "samples.json"
        timing = ["--rate", "30", "--seconds", "1", "--warm-up", "0.2", "--start", str(time.monotonic() + 1)]
        command = [*LOAD, str(port), str(file), *told, *timing]
        assert children.start("load", command, cores).process.wait(LIMIT_S) == 0
    samples = sorted(json.loads(file.read_text())["samples"])
    endpoint = Endpoint(trace.scenario)
    expected = [(r.due, endpoint.admit(r.dataset, now=r.due)) for r in trace.requests()]
    assert [due for due, *_ in samples] == [due for due, _ in expected]
    assert not any(failed for *_, failed in samples)
    # On a busy machine requests are sent late, all at once, and may arrive in another order. The cache has room for
    # nearly all that they ask for, so whoever comes first to its data misses and the number of hits stays.
    hits, expected_hits = (
        sum(flags) for flags in ([hit for _, _, hit, _ in samples], [v.is_hit for _, v in expected])
    )
    assert abs(hits - expected_hits) <= 2
    total_s = sum(took_s for _, took_s, *_ in samples)
    assert total_s > 0.7 * sum(visit.end - due for due, visit in expected)


@pytest.mark.parametrize("scenario", ["dies", "joins"])
def test_a_whole_run(scenario, tmp_path):
    """Through Homeport, a second of requests. What it finds is not judged: other work disturbs it."""
    file = tmp_path / "figures.json"
    chosen = ["--scenarios", scenario, "--peers", "homeport-hash", "--seeds", "1", "--rates", "1.0"]
    timing = ["--calibrated", "40", "--seconds", "1.2", "--warm-up", "0.2"]
    done = compare(*chosen, *timing, "--json", str(file))
    assert done.returncode in (0, 1), done.stderr
    said = json.loads(file.read_text())
    (cell,) = said["cells"]
    ((run,), (oracle,)) = cell["peers"]["homeport-hash"], cell["peers"]["oracle"]
    trace = Trace(BY_NAME[scenario], 1, 40.0, 1.2, 0.2)
    counted = sum(request.due >= trace.counted_from for request in trace.requests())
    assert run["figures"]["requests"] == oracle["figures"]["requests"] == counted
    again, other = tmp_path / "again.json", [*timing[:-1], "0.3"]
    assert (
        compare(*chosen, *timing, "--resume", str(file), "--json", str(again)).returncode == done.returncode
    )
    assert json.loads(again.read_text()) == said, "nothing was measured again"
    refused = compare(*chosen, *other, "--resume", str(file))
    assert refused.returncode == 2
    assert "'warm_up_s': 0.2" in refused.stderr
    # What is lost with an endpoint is sent again as far as the budget for retries goes: a fifth of the few dozen
    # requests until then, and on a busy machine more wait in its line.
    assert run["figures"]["failed"] <= (3 if scenario == "dies" else 0), done.stdout
    assert run["figures"]["p50_s"] > 0.0


@pytest.mark.parametrize("name", [peer.name for peer in PEERS.values() if peer.is_ours])
def test_homeport_takes_its_configuration(name, tmp_path):
    PEERS[name].launch(sys.executable, place_in(tmp_path))
    load_file(tmp_path / "homeport.yaml")


def test_everybody_hashes_the_same_header_with_the_same_bound(tmp_path):
    place = place_in(tmp_path)
    text = haproxy_config(place, hashes=True)
    assert "balance hdr(X-Dataset-Id)" in text
    assert "hash-balance-factor 125" in text
    assert text.count("    server e") == 8
    assert "balance leastconn" in haproxy_config(place, hashes=False)
    envoy = json.dumps(envoy_config(place, "MAGLEV"))
    assert '"lb_policy": "MAGLEV"' in envoy
    assert '"hash_balance_factor": 125' in envoy
    assert '"header_name": "X-Dataset-Id"' in envoy
    assert "hash_balance_factor" not in json.dumps(envoy_config(place, "LEAST_REQUEST"))


def test_homeport_is_told_what_there_is(tmp_path):
    place = place_in(tmp_path)
    config = homeport_config(place, 1, told(place))
    known = config["clusters"][0]["locality"]
    assert (known["slots"], known["cache"], known["bandwidth"]) == (4, 2_000_000_000, 200_000_000)
    assert len(known["sizes"]) == 400
    assert config["routes"][0]["locality"] == {"data_key": {"header": "X-Dataset-Id"}}


def compare(*options):
    return subprocess.run(
        [sys.executable, "-m", "loadtests.locality", *options],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
