"""The README's reference knows what there is."""

from pathlib import Path

import pytest

from proxy.config.locality_schema import Locality, RouteLocality
from proxy.config.route_schema import Route
from proxy.config.schema import Cluster, Endpoint
from proxy.policy.balancer import BALANCERS
from proxy.policy.data_reply import DATA_FIELDS
from proxy.policy.ignored import Ignored

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
KEYS = README.partition("\n## Configuration\n")[2].partition("\n### ")[0]


def row(key: str) -> str:
    """That of `key` in the table of the configuration."""
    (found,) = [line for line in KEYS.splitlines() if line.startswith(f"| `{key}`")]
    return found


def test_keys_of_a_cluster() -> None:
    for name in Cluster.model_fields:
        assert f"`clusters[].{name}`" in KEYS or f"`{name}" in row("clusters[]"), name
    for name in Endpoint.model_fields:
        assert f"`{name}`" in row("clusters[]"), name
    assert all(f"`{name}`" in row("clusters[].balancer") for name in BALANCERS)


@pytest.mark.parametrize(
    ("key", "model"), [("clusters[].locality", Locality), ("routes[].locality", RouteLocality)]
)
def test_keys_of_locality(key: str, model: type[Locality] | type[RouteLocality]) -> None:
    assert all(f"`{name}" in row(key) for name in model.model_fields)


def test_keys_of_a_route() -> None:
    actions = ("cluster", "split", "respond", "redirect")
    for name in set(Route.model_fields) - {"name", *actions}:
        assert f"`routes[].{name}" in KEYS, name
    assert all(f"`{name}" in row("routes[]") for name in actions)


def test_what_endpoints_may_say_in_answers() -> None:
    """Users find it where they look: the README, the example, the schema."""
    schema = Locality.__doc__ or ""
    for text in (README, (ROOT / "config" / "locality.yaml").read_text(), schema):
        assert all(field.decode() in text.lower() for field in DATA_FIELDS)


def test_why_data_are_ignored() -> None:
    (line,) = [each for each in README.splitlines() if "`homeport_cluster_ignored_data_values_total`" in each]
    assert all(f"`{why.value}`" in line for why in Ignored)


def test_the_map_has_every_load_test() -> None:
    found = README.partition("\n## Map\n")[2].partition("\n## ")[0]
    tools = [path.parent.name for path in (ROOT / "loadtests").glob("*/__main__.py")]
    assert tools and all(name in found for name in tools)
