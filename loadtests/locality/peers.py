"""Every proxy of the comparison and its configuration, with the same work: a health check each second, failed tries
of a GET sent elsewhere, connections kept, one worker or thread, no access log, no limit that would cut a long wait."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.locality.trace import Scenario, datasets
from loadtests.peers import configs, proxies
from loadtests.peers.processes import free_port
from loadtests.peers.proxies import Launch

HEADER = "X-Dataset-Id"
EXCESS_PERCENT = 125
"""Bound of the hashing balancers: requests at one endpoint, of the mean."""
CHECK_S = 1
CHECKS = 2
"""In a row that make an endpoint well or ill."""
RETRIES = 3
WAIT_S = 3600
"""Longest wait for an answer: longer than any run."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy runs, and what it forwards to."""

    port: int
    endpoints: tuple[int, ...]
    """Ports, by the endpoints' numbers."""
    directory: Path
    scenario: Scenario
    seed: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy with one way to balance."""

    name: str
    program: str
    """Its name in `loadtests.peers.proxies`."""
    launch: Callable[[str, Place], Launch]
    """Writes the configuration and returns the command for the program at a path."""
    is_ours: bool = False

    @property
    def proxy(self) -> proxies.Proxy:
        """Where the program is, and its version."""
        return proxies.BY_NAME[self.program]


def haproxy_config(place: Place, *, hashes: bool) -> str:
    """Hashing with bounded load, or fewest connections. A weight of 1 would put 16 points on the ring for each server,
    and some would get twice as much as others."""
    balance = (
        f"balance hdr({HEADER})\n    hash-type consistent\n    hash-balance-factor {EXCESS_PERCENT}"
        if hashes
        else "balance leastconn"
    )
    servers = "\n".join(
        f"    server e{number} 127.0.0.1:{port}" for number, port in enumerate(place.endpoints)
    )
    return f"""
global
    nbthread 1
    maxconn {configs.CONNECTIONS}
    no strict-limits
listen edge
    mode http
    no log
    bind 127.0.0.1:{place.port} backlog 8192
    maxconn {configs.CONNECTIONS}
    timeout connect 5s
    timeout client {WAIT_S}s
    timeout server {WAIT_S}s
    timeout http-keep-alive {WAIT_S}s
    http-reuse always
    retries {RETRIES}
    option redispatch 1
    retry-on conn-failure empty-response junk-response
    {balance}
    option httpchk GET /health
    default-server weight 100 check inter {CHECK_S}s fall {CHECKS} rise {CHECKS}
{servers}
"""


def _haproxy(*, hashes: bool) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "haproxy.cfg"
        config.write_text(haproxy_config(place, hashes=hashes))
        return Launch([binary, "-db", "-f", str(config)])

    return launch


def envoy_config(place: Place, policy: str) -> dict[str, Any]:
    """That of the comparison of costs, with another balancer."""
    base = configs.Place(place.port, 0, place.endpoints, place.directory, Path())
    config: dict[str, Any] = configs.envoy_config(base, duties=False)
    cluster = config["static_resources"]["clusters"][0]
    cluster["lb_policy"] = policy
    if policy != "LEAST_REQUEST":
        cluster["common_lb_config"] = {
            "consistent_hashing_lb_config": {"hash_balance_factor": EXCESS_PERCENT}
        }
    # Three at once by default: most of what is lost with an endpoint would fail.
    cluster["circuit_breakers"]["thresholds"][0]["max_retries"] = configs.CONNECTIONS
    cluster["health_checks"] = [
        {
            "interval": f"{CHECK_S}s", "no_traffic_interval": f"{CHECK_S}s", "timeout": f"{CHECK_S}s",
            "unhealthy_threshold": CHECKS, "healthy_threshold": CHECKS, "http_health_check": {"path": "/health"},
        }
    ]  # fmt: skip
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"] |= {
        "hash_policy": [{"header": {"header_name": HEADER}}],
        "retry_policy": {
            "retry_on": "connect-failure,reset", "num_retries": RETRIES,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": f"{configs.ENVOY_TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 5,
        },
    }  # fmt: skip
    return config


def _envoy(policy: str) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "envoy.json"
        config.write_text(json.dumps(envoy_config(place, policy)))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return Launch([binary, "-c", str(config), *options])

    return launch


def homeport_config(place: Place, admin_port: int, cluster: dict[str, Any]) -> dict[str, Any]:
    """The smallest configuration, and the keys of `cluster`."""
    check = {
        "path": "/health", "interval": f"{CHECK_S}s", "timeout": f"{CHECK_S}s",
        "healthy_after": CHECKS, "unhealthy_after": CHECKS,
    }  # fmt: skip
    route: dict[str, Any] = {"match": {"path_prefix": "/"}, "cluster": "data"}
    if cluster["balancer"] == LOCALITY["balancer"]:
        route["locality"] = {"data_key": {"header": HEADER}}
    return {
        "listeners": [{"bind": f"127.0.0.1:{place.port}"}],
        "admin": {"bind": f"127.0.0.1:{admin_port}"},
        "clusters": [
            {
                "name": "data",
                "endpoints": [{"address": f"127.0.0.1:{port}"} for port in place.endpoints],
                "health_check": check,
                "timeouts": {"response": f"{WAIT_S}s"},
                **cluster,
            }
        ],
        "routes": [route],
    }


LOCALITY: dict[str, Any] = {"balancer": "data_locality_aware"}
HASHING: dict[str, Any] = {
    "balancer": "consistent_hashing",
    "hash": {"header": HEADER, "max_load_percent": EXCESS_PERCENT},
}


def told(place: Place) -> dict[str, Any]:
    """Everything that can be said of the data and the endpoints beforehand."""
    scenario = place.scenario
    return LOCALITY | {
        "locality": {
            "slots": scenario.slots,
            "cache": scenario.cache_bytes,
            "bandwidth": round(scenario.bandwidth_bytes_per_s),
            "sizes": {known.name: known.size_bytes for known in datasets(scenario, place.seed)},
        }
    }


def _homeport(cluster: Callable[[Place], dict[str, Any]]) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "homeport.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(homeport_config(place, free_port(), cluster(place))))
        return Launch([binary, "-m", "proxy", "run", "-c", str(config), "--workers", "1"])

    return launch


PEERS = (
    Peer("homeport", "homeport", _homeport(lambda place: LOCALITY), is_ours=True),
    Peer("homeport-told", "homeport", _homeport(told), is_ours=True),
    Peer("homeport-hash", "homeport", _homeport(lambda place: HASHING), is_ours=True),
    Peer("haproxy-hash", "haproxy", _haproxy(hashes=True)),
    Peer("haproxy-leastconn", "haproxy", _haproxy(hashes=False)),
    Peer("envoy-ring", "envoy", _envoy("RING_HASH")),
    Peer("envoy-maglev", "envoy", _envoy("MAGLEV")),
    Peer("envoy-least", "envoy", _envoy("LEAST_REQUEST")),
)
BY_NAME = {peer.name: peer for peer in PEERS}
SERVICES = (sys.executable, "-m", "loadtests.locality.service")
LOAD = (sys.executable, "-m", "loadtests.locality.load")
