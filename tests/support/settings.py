"""Configurations that the integration tests run the daemon with."""

from pathlib import Path
from typing import Any

from support.daemon import free_port

Config = dict[str, Any]

STUBBORN: Config = {"circuit_breaker": {"failure_threshold": 0}}
"""For clusters whose endpoints fail as tests want it: what one test does must not shut them off for the next."""


def listener(name: str = "plain", **more: Any) -> Config:
    """A TCP listener on a free port of 127.0.0.1."""
    return {"name": name, "bind": f"127.0.0.1:{free_port()}", **more}


def cluster(name: str, *addresses: str | Config, **more: Any) -> Config:
    """A cluster of endpoints given by address, or as they are written in the file."""
    endpoints = [{"address": one} if isinstance(one, str) else one for one in addresses]
    return {"name": name, "endpoints": endpoints, **more}


def route(target: str | Config, **match: Any) -> Config:
    """A route to the cluster called `target`, or with the keys in it."""
    action = {"cluster": target} if isinstance(target, str) else target
    return {"match": match, **action}


def simple(*addresses: str, **more: Any) -> Config:
    """One listener, one cluster, everything goes there; `more` are further top-level keys."""
    return {
        "listeners": [listener()],
        "clusters": [cluster("origin", *addresses)],
        "routes": [route("origin", path_prefix="/")],
        **more,
    }


def shared(addresses: dict[str, str], folder: Path) -> Config:
    """What the shared daemon runs with; the first path segment chooses among its clusters."""
    origin = addresses["origin"]
    clusters = [
        cluster("origin", origin),
        cluster("six", addresses["six"]),
        cluster("unix", addresses["unix"]),
        cluster("refused", addresses["refused"]),
        cluster("blackhole", addresses["blackhole"], timeouts={"connect": "300ms"}),
        cluster("impatient", origin, timeouts={"response": "400ms", "idle": "400ms"}),
        cluster("total", origin, timeouts={"total": "600ms"}),
        cluster("bounded", {"address": origin, "max_connections": 1}),
        cluster("alone", origin),
        cluster("unpooled", origin, pool={"max_idle": 0}),
    ]
    for one in clusters:
        one |= STUBBORN
    return {
        "listeners": [
            listener(),
            listener("trusting", trusted_proxies=["127.0.0.0/8"]),
            listener("proxied", proxy_protocol=True),
            {"name": "six", "bind": f"[::1]:{free_port('::1')}"},
            {"name": "unix", "bind": f"unix:{folder}/listener.sock"},
        ],
        "clusters": clusters,
        "routes": [route(one["name"], path_prefix="/" + one["name"]) for one in clusters[1:]]
        + [route("origin", path_prefix="/")],
        "access_log": {"sink": str(folder / "access.log")},
    }
