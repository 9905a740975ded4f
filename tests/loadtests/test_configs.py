"""Every proxy's configuration renders, names both endpoints, and is accepted where the proxy is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from loadtests.peers import configs, origin, proxies
from loadtests.peers.certificate import write_certificate

PORTS = (41001, 41002)


@pytest.fixture
def place(tmp_path: Path) -> configs.Place:
    certificate = tmp_path / "certificate.pem"
    write_certificate(certificate)
    return configs.Place(41000, 41003, PORTS, tmp_path, certificate)


@pytest.mark.parametrize("proxy", proxies.PROXIES, ids=lambda proxy: proxy.name)
def test_launch_writes_a_configuration_with_all_ports(proxy, place, tmp_path):
    launch = proxy.launch("/bin/program", place)
    written = " ".join(file.read_text() for file in tmp_path.iterdir()) + " ".join(launch.command)
    assert launch.command[0] == "/bin/program"
    for port in (place.port, *PORTS):
        assert str(port) in written
    assert not proxy.tls or str(place.tls_port) in written


@pytest.mark.parametrize("render", [configs.nginx_config, configs.haproxy_config], ids=["nginx", "haproxy"])
def test_bare_configurations_set_no_forwarding_header(render, place):
    for name in ("X-Forwarded-Proto", "Forwarded", "Via", "X-Request-Id"):
        assert name in render(place, True)
        assert name not in render(place, False)


def test_bare_envoy_makes_no_request_id(place):
    full, bare = (json.dumps(configs.envoy_config(place, duties)) for duties in (True, False))
    assert '"generate_request_id": true' in full and '"via"' in full
    assert '"generate_request_id": false' in bare and '"via"' not in bare


def test_homeport_configuration_is_the_smallest(place):
    config = yaml.safe_load(json.dumps(configs.homeport_config(place, 41009)))
    assert set(config) == {"listeners", "admin", "clusters", "routes"}
    assert [endpoint["address"] for endpoint in config["clusters"][0]["endpoints"]] == [
        "127.0.0.1:41001",
        "127.0.0.1:41002",
    ]


@pytest.mark.parametrize("duties", [True, False])
def test_nginx_accepts_its_configuration(duties, place):
    _accepts(
        "nginx", ["-t", "-q", "-p", str(place.directory), "-c"], configs.nginx_config(place, duties), place
    )


def test_nginx_accepts_the_origin(place):
    _accepts(
        "nginx", ["-t", "-q", "-p", str(place.directory), "-c"], origin.render(place.directory, PORTS), place
    )


@pytest.mark.parametrize("duties", [True, False])
def test_haproxy_accepts_its_configuration(duties, place):
    _accepts("haproxy", ["-c", "-f"], configs.haproxy_config(place, duties), place)


def _accepts(program: str, arguments: list[str], config: str, place: configs.Place) -> None:
    binary = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        pytest.skip(f"{program} is not installed")
    file = place.directory / "config"
    file.write_text(config)
    done = subprocess.run([binary, *arguments, str(file)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
