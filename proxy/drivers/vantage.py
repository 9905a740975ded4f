"""From where Homeport looks at the engine's containers: the host, a container beside them, or another machine."""

import re
import socket
from ipaddress import ip_address
from pathlib import Path

from proxy.drivers.engine import Engine, in_thread, remote_host
from proxy.drivers.engine_answers import Json, Vantage
from proxy.errors import EngineNotFound

# Docker mounts its own hostname and resolv.conf into each container, from a directory with the container's id.
_CONTAINER_ID = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|resolv\.conf|hosts)\b")
_MOUNTS = Path("/proc/self/mountinfo")


def own_container_id(mounts: str) -> str:
    """The id of the container that this process is in, from `/proc/self/mountinfo`; empty = none."""
    match = _CONTAINER_ID.search(mounts)
    return match[1] if match is not None else ""


async def find_vantage(engine: Engine, mounts: str | None = None) -> Vantage:
    """Where we are. `mounts` is what `/proc/self/mountinfo` holds, read unless given. Raises `EngineError`."""
    if mounts is None:
        mounts = await in_thread(lambda: _MOUNTS.read_text(errors="replace"))
    own = own_container_id(mounts)
    if own:
        try:
            answer = await engine.ask("find our own container", lambda api: api.inspect_container(own))
        except EngineNotFound:
            pass  # of another engine than the one that is asked
        else:
            return container_vantage(answer)
    host = remote_host(engine.options)
    address = await in_thread(lambda: _resolve(host)) if host else "127.0.0.1"
    is_local = not address or ip_address(address).is_loopback
    return Vantage(on_host=is_local and bool(address), host_address=address)


def container_vantage(answer: Json) -> Vantage:
    """The view from a container: its networks, and the host by the gateway of one of them."""
    networks = answer["NetworkSettings"].get("Networks") or {}
    if "host" in networks:
        return Vantage(on_host=True)
    gateways = [network.get("Gateway") for network in networks.values()]
    return Vantage(
        on_host=False,
        networks=frozenset(network["NetworkID"] for network in networks.values()),
        host_address=next((gateway for gateway in gateways if gateway), ""),
    )


def _resolve(host: str) -> str:
    """A numeric address of `host`; empty when it has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""
