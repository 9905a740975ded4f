"""The image, just built, and what the tests run it with.

Skipped unless an engine answers and has the base image: that of the Dockerfile, or HOMEPORT_BASE_IMAGE. Packages
are installed in HOMEPORT_BUILD_IMAGE, by default the base image. HOMEPORT_COMPILE=1 has the compiled build tested; the
image of HOMEPORT_BUILD_IMAGE needs a C compiler then. The image stays behind as `homeport:test`, so that the next run
finds the layers; containers and networks do not.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import (
    COMPILE,
    CONFIG,
    HARDENED,
    PUBLISHED,
    QUICK_HEALTH,
    Container,
    answers,
    docker,
    settings,
    start_endpoint,
    why_no_engine,
    write_config,
)
from support.wait import wait_for

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "homeport:test"
BUILD_S = 900.0


@pytest.fixture(scope="session")
def base_image() -> str:
    """The name of an image with Python, which the engine has."""
    if reason := why_no_engine():
        pytest.skip(reason)
    dockerfile = (ROOT / "Dockerfile").read_text()
    default = dockerfile.partition("\nARG BASE_IMAGE=")[2].partition("\n")[0]
    base = os.environ.get("HOMEPORT_BASE_IMAGE", default)
    _require(base)
    return base


def _require(name: str) -> None:
    if docker("image", "inspect", name, check=False).returncode:
        pytest.skip(f"the engine has no image {name}: pull it, or set HOMEPORT_BASE_IMAGE")


@pytest.fixture(scope="session")
def image(base_image: str) -> str:
    """The name of the image, just built."""
    base = base_image
    build = os.environ.get("HOMEPORT_BUILD_IMAGE", base)
    _require(build)
    values = (f"BASE_IMAGE={base}", f"BUILD_IMAGE={build}", f"COMPILE={COMPILE}")
    arguments = [word for value in values for word in ("--build-arg", value)]
    docker("build", "--tag", IMAGE, *arguments, str(ROOT), limit_s=BUILD_S)
    return IMAGE


@pytest.fixture(scope="session")
def network(image: str) -> Iterator[str]:
    name = f"homeport-test-{os.getpid()}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name, check=False)


@pytest.fixture(scope="session")
def endpoints(image: str, network: str) -> Iterator[dict[str, Container]]:
    """Two endpoints, `alpha` and `beta`, which the network knows by these names."""
    running: dict[str, Container] = {}
    try:
        for name in ("alpha", "beta"):
            running[name] = start_endpoint(image, network, name)
        for one in running.values():
            wait_for(lambda one=one: answers(one, 8000), "an endpoint to answer")
        yield running
    finally:
        for one in running.values():
            one.remove()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with both endpoints."""
    return write_config(tmp_path, **settings())


@pytest.fixture
def mounted(config: Path, network: str, endpoints: dict[str, Container]) -> tuple[str, ...]:
    """Options of `docker run` for a proxy as users should run it, in front of the endpoints."""
    return (*HARDENED, *QUICK_HEALTH, *PUBLISHED, "--network", network, "--volume", f"{config}:{CONFIG}:ro")
