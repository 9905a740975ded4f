"""What the Docker Engine says about containers, as instances and events. Pure.

Addresses come in the order in which they should be tried (`addresses`). Through a published port the engine's own
proxy accepts and then closes when nobody listens behind it, so a failure there shows late; and a container's own
address is no detour. So that comes last."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from proxy.drivers import labels as own
from proxy.drivers.driver import EngineHealth, Instance, State
from proxy.drivers.spec import Selector
from proxy.model import TcpAddress

Json = Mapping[str, Any]

# Signals by which people and programs ask a container to end; `kill` events come for all others too.
_ENDING_SIGNALS = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})
_DEFAULT_GRACE_S = 10.0
_STATES = {
    "created": State.CREATED,
    "running": State.RUNNING,
    "paused": State.PAUSED,
    "restarting": State.RESTARTING,
}
_HEALTH = {health.value: health for health in EngineHealth}
# The name of the network of a container that has the host's own addresses.
_HOST_NETWORK = "host"


@dataclass(frozen=True, slots=True)
class Vantage:
    """From where Homeport looks at containers."""

    on_host: bool
    """It runs on the engine's host (or shares its network), and reaches every bridge there."""
    networks: frozenset[str] = frozenset()
    """Ids of the networks that its own container is in."""
    host_address: str = "127.0.0.1"
    """Where ports that are published on all addresses of the host are reached; empty = nowhere."""


def instance_of(answer: Json, selector: Selector, vantage: Vantage) -> Instance:
    """The instance that `inspect` describes."""
    config, state, host = answer["Config"], answer["State"], answer["HostConfig"]
    found = {str(name): str(value) for name, value in (config.get("Labels") or {}).items()}
    kind = _STATES.get(state["Status"], State.ENDED)
    runs = kind in (State.RUNNING, State.PAUSED)
    grace = config.get("StopTimeout")
    return Instance(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        cluster=selector.cluster,
        state=kind,
        addresses=addresses(answer, service_port(answer, found, selector), vantage, selector.network)
        if runs
        else (),
        health=_health(state),
        labels=tuple(sorted(found.items())),
        owner=found.get(own.OWNER, ""),
        spec_digest=found.get(own.SPEC, ""),
        started_at=engine_time(state.get("StartedAt", "")),
        exit_code=int(state["ExitCode"]) if kind is State.ENDED else None,
        oom_killed=bool(state.get("OOMKilled")),
        restarts=int(answer.get("RestartCount") or 0),
        stop_signal=signal_number(config.get("StopSignal") or "") or signal.SIGTERM,
        stop_grace_s=_DEFAULT_GRACE_S if grace is None else float(grace),
        cpus=_cpus(host),
        memory_bytes=int(host.get("Memory") or 0),
        error=str(state.get("Error") or ""),
    )


def _health(state: Json) -> EngineHealth:
    return _HEALTH.get(str((state.get("Health") or {}).get("Status")), EngineHealth.NONE)


def _cpus(host: Json) -> float:
    if host.get("NanoCpus"):
        return float(host["NanoCpus"]) / 1e9
    if (host.get("CpuQuota") or 0) > 0:
        return float(host["CpuQuota"]) / float(host.get("CpuPeriod") or 100_000)
    return 0.0


def service_port(answer: Json, labels: Mapping[str, str], selector: Selector) -> int:
    """The port that a container serves at: its label's, the selector's, or its only TCP port; 0 = not known."""
    label = labels.get(own.PORT, "")
    if label.isascii() and label.isdecimal() and 0 < int(label) < 65536:
        return int(label)
    if selector.port:
        return selector.port
    exposed = answer["Config"].get("ExposedPorts") or {}
    ports = {int(port.partition("/")[0]) for port in exposed if port.endswith("/tcp")}
    return ports.pop() if len(ports) == 1 else 0


def addresses(answer: Json, port: int, vantage: Vantage, network: str = "") -> tuple[TcpAddress, ...]:
    """Where `port` of a container may be reached, the best first: networks that it shares with us, its own addresses
    when we are on the host, published ports. `network` takes one network alone, by name."""
    if not port:
        return ()
    settings = answer["NetworkSettings"]
    shared: list[TcpAddress] = []
    bridged: list[TcpAddress] = []
    for name, joined in (settings.get("Networks") or {}).items():
        if network and name != network:
            continue
        if name == _HOST_NETWORK:
            shared += _at(vantage.host_address, port)
            continue
        own_addresses = [joined.get("IPAddress"), joined.get("GlobalIPv6Address")]
        found = [TcpAddress(address, port) for address in own_addresses if address]
        if joined.get("NetworkID") in vantage.networks:
            shared += found
        elif vantage.on_host:
            bridged += found
    published = [] if network else _published(settings, port, vantage)
    return tuple(dict.fromkeys(shared + bridged + published))


def _published(settings: Json, port: int, vantage: Vantage) -> list[TcpAddress]:
    found: list[TcpAddress] = []
    for binding in (settings.get("Ports") or {}).get(f"{port}/tcp") or ():
        address = binding.get("HostIp") or "0.0.0.0"
        parsed = ip_address(address)
        host_port = int(binding["HostPort"])
        if parsed.is_unspecified:
            # Of a port that the engine picks, the one for IPv6 may be another number.
            if (parsed.version == 6) == (":" in vantage.host_address):
                found += _at(vantage.host_address, host_port)
        elif vantage.on_host or not parsed.is_loopback:
            found += _at(str(parsed), host_port)
    return found


def _at(address: str, port: int) -> list[TcpAddress]:
    return [TcpAddress(address, port)] if address else []


def engine_time(text: str) -> float | None:
    """Seconds since the epoch of a time as the engine writes it; `None` for its zero time, or what is none.

    >>> engine_time("1970-01-01T00:00:01.500000001Z")
    1.5
    """
    if not text or text.startswith("0001-"):
        return None
    head, _, zone = text.partition(".")
    fraction = zone.rstrip("Zz")[:6] if zone else ""
    try:
        moment = datetime.fromisoformat(head.rstrip("Zz"))
    except ValueError:
        return None
    seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    return seconds + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0)


def signal_number(text: str) -> int:
    """The number of a signal as the engine writes it: `15`, `SIGTERM`, `TERM`, `RTMIN+3`; 0 = none that is known."""
    if text.isascii() and text.isdecimal():
        return int(text)
    base, plus, offset = text.upper().removeprefix("SIG").partition("+")
    known = signal.Signals.__members__.get(f"SIG{base}")
    if known is None or (plus and not offset.isdecimal()):
        return 0
    return known + (int(offset) if plus else 0)


def asks_to_end(number: int, instance: Instance | None) -> bool:
    """Whether a container that is sent this signal was asked to end. `kill` events come for HUP and USR1 too, which
    mean anything but that; unless one of them is its stop signal."""
    return number in _ENDING_SIGNALS or (instance is not None and number == instance.stop_signal)
