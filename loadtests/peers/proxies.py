"""Every proxy of the comparison: is it installed, its version, its command.

Go programs get GOMAXPROCS=1: they see two cores though only one is theirs.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.peers import compiled, configs
from loadtests.peers.configs import Place
from loadtests.peers.processes import free_port


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that runs a proxy in the foreground, and what it wants in its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


VARIANTS = {
    "bare": "the same, bare: none of the duties",
    "2w": "the same, two workers on that core",
    "data": "the same, by data locality",
}
"""Titles of the rows that show them."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One competitor."""

    name: str
    binary: Callable[[], str | None]
    """Path of its program, None when it is not installed."""
    version: Callable[[str], str]
    """What the program at a path says of itself."""
    launch: Callable[[str, Place], Launch]
    """Writes the configuration into the place's directory and returns the command for the program at a
    path."""
    variant: str = ""
    """What sets it apart from the proxy whose name comes before the `-`, one of `VARIANTS`. Measured at saturation
    alone."""
    tls: bool = False
    """Listens with TLS too."""


def _on_path(name: str) -> Callable[[], str | None]:
    # A wheel puts its program next to the interpreter, which need not be on PATH when the environment is not
    # active.
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"))
    return lambda: shutil.which(name, path=places)


def _envoy_binary() -> str | None:
    # The wheel's `envoy` on PATH is a Python script that starts this program; the measure is of the program.
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.submodule_search_locations:
        binary = Path(spec.submodule_search_locations[0]) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return _on_path("envoy")()


def _module(name: str) -> Callable[[], str | None]:
    return lambda: sys.executable if importlib.util.find_spec(name) else None


def _says(*arguments: str) -> Callable[[str], str]:
    """The first thing like a version number in what the program prints."""

    def version(binary: str) -> str:
        done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=30, check=False)
        said = done.stdout + done.stderr if done.returncode == 0 else ""
        found = re.search(r"\d+\.\d+\.\d+", said)
        return found.group() if found else "?"

    return version


def _package(name: str) -> Callable[[str], str]:
    return _says("-c", f"import importlib.metadata as m; print(m.version({name!r}))")


def _nginx(duties: bool) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "nginx.conf"
        config.write_text(configs.nginx_config(place, duties))
        return Launch([binary, "-c", str(config), "-p", str(place.directory)])

    return launch


def _haproxy(duties: bool) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "haproxy.cfg"
        config.write_text(configs.haproxy_config(place, duties))
        return Launch([binary, "-db", "-f", str(config)])

    return launch


def _envoy(duties: bool) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "envoy.json"
        config.write_text(json.dumps(configs.envoy_config(place, duties)))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return Launch([binary, "-c", str(config), *options])

    return launch


def _traefik(binary: str, place: Place) -> Launch:
    static, dynamic = configs.traefik_configs(place)
    (place.directory / "static.json").write_text(json.dumps(static))
    (place.directory / "dynamic.json").write_text(json.dumps(dynamic))
    return Launch([binary, f"--configFile={place.directory}/static.json"], {"GOMAXPROCS": "1"})


def _caddy(binary: str, place: Place) -> Launch:
    config = place.directory / "Caddyfile"
    config.write_text(configs.caddy_config(place))
    # Its certificates and state would go to the user's home otherwise.
    home = {"XDG_DATA_HOME": str(place.directory), "XDG_CONFIG_HOME": str(place.directory)}
    return Launch(
        [binary, "run", "--config", str(config), "--adapter", "caddyfile"], {"GOMAXPROCS": "1", **home}
    )


def _aiohttp(binary: str, place: Place) -> Launch:
    origins = [str(port) for port in place.origins]
    return Launch([binary, "-m", "loadtests.peers.aiohttp_proxy", str(place.port), *origins])


def _homeport(workers: int, *, by_data: bool = False) -> Callable[[str, Place], Launch]:
    def launch(binary: str, place: Place) -> Launch:
        config = place.directory / "homeport.yaml"
        config.write_text(
            json.dumps(configs.homeport_config(place, free_port(), by_data=by_data))
        )  # JSON is YAML
        return Launch([binary, "-m", "proxy", "run", "-c", str(config), "--workers", str(workers)])

    return launch


def _homeport_compiled(binary: str, place: Place) -> Launch:
    # The directory of the sources must not go before what was built from them.
    command = _homeport(1)(binary, place).command
    return Launch([command[0], "-P", *command[1:]], {"PYTHONPATH": str(compiled.build())})


PROXIES = (
    Proxy(
        "homeport",
        _module("proxy"),
        _says("-c", "import proxy; print(proxy.__version__)"),
        _homeport(1),
        tls=True,
    ),
    Proxy(
        "homeport-2w",
        _module("proxy"),
        _says("-c", "import proxy; print(proxy.__version__)"),
        _homeport(2),
        variant="2w",
    ),
    Proxy(
        "homeport-data",
        _module("proxy"),
        _says("-c", "import proxy; print(proxy.__version__)"),
        _homeport(1, by_data=True),
        variant="data",
    ),
    Proxy(
        "homeport-compiled",
        lambda: sys.executable if compiled.compiler() else None,
        _says("-c", "import proxy; print(proxy.__version__)"),
        _homeport_compiled,
        tls=True,
    ),
    Proxy("nginx", _on_path("nginx"), _says("-v"), _nginx(True), tls=True),
    Proxy("haproxy", _on_path("haproxy"), _says("-v"), _haproxy(True), tls=True),
    Proxy("envoy", _envoy_binary, _says("--version"), _envoy(True)),
    Proxy("traefik", _on_path("traefik"), _says("version"), _traefik),
    Proxy("caddy", _on_path("caddy"), _says("version"), _caddy),
    Proxy("aiohttp", _module("aiohttp"), _package("aiohttp"), _aiohttp),
    Proxy("nginx-bare", _on_path("nginx"), _says("-v"), _nginx(False), variant="bare"),
    Proxy("haproxy-bare", _on_path("haproxy"), _says("-v"), _haproxy(False), variant="bare"),
    Proxy("envoy-bare", _envoy_binary, _says("--version"), _envoy(False), variant="bare"),
)
BY_NAME = {proxy.name: proxy for proxy in PROXIES}
