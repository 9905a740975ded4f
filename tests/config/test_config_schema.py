"""The schema: every key is described, the examples are complete, and the defaults are the snapshot's."""

from pathlib import Path
from typing import Any

import pytest

from proxy.config.build import build_snapshot
from proxy.config.document import read_document
from proxy.config.load import load_bytes, load_file
from proxy.config.schema import Config, config_json_schema
from proxy.config.slots import Slots
from proxy.snapshot import (
    AccessLogSpec,
    ClusterSpec,
    DownstreamTimeouts,
    EndpointSpec,
    Limits,
    ListenerSpec,
    MatchSpec,
    RouteSpec,
    Snapshot,
    SplitSpec,
)

EXAMPLES = Path(__file__).parents[2] / "config"
SCHEMA = config_json_schema()


def models() -> dict[str, dict[str, Any]]:
    return {"Config": SCHEMA, **SCHEMA["$defs"]}


def refer(schema: dict[str, Any]) -> str | None:
    """Name of the model that `schema` leads to."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return refer(schema["anyOf"][0])
    return refer(schema["items"]) if "items" in schema else None


def keys_in(model: str, data: Any) -> set[str]:
    """`Model.key` for every key that `data` sets."""
    found = set()
    for item in data if isinstance(data, list) else [data]:
        for key, value in item.items():
            found.add(f"{model}.{key}")
            inner = refer(models()[model]["properties"][key])
            if inner is not None:
                found |= keys_in(inner, value)
    return found


ALL_KEYS = {f"{name}.{key}" for name, model in models().items() for key in model["properties"]}


# What it names must be made first; test_tls_material does.
NEEDS_FILES = "tls.yaml"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.glob("*.yaml") if path.name != NEEDS_FILES)
)
def test_the_examples_are_clean(name):
    load_file(EXAMPLES / name, {})


def test_the_full_examples_set_every_key():
    full, tls, locality, containers = (
        keys_in("Config", read_document((EXAMPLES / name).read_text(), lambda value: value).data)
        for name in ("full.yaml", "tls.yaml", "locality.yaml", "containers.yaml")
    )
    # No example can name a function that is there; of a source's keys, one excludes the others.
    unshown = {"KeySource.function", "KeySource.timeout"}
    unshown |= {f"{model}.{key}" for model in ("Source", "TagSource") for key in ("query", "path", "cookie")}
    assert full | tls | locality | containers == ALL_KEYS - unshown
    assert {key for key in ALL_KEYS if "Tls" in key or "Certificate" in key} <= tls | containers


def test_every_key_says_its_meaning_and_its_default():
    for name, model in models().items():
        assert model["additionalProperties"] is False
        for key, schema in model["properties"].items():
            text = schema["description"].replace("\n", " ")
            if key in model.get("required", ()):
                assert text.endswith("Required."), (name, key)
                continue
            assert "Default" in text, (name, key)
            default = schema.get("default")
            if default is False or default in ([], {}):
                continue
            if default is not None and not isinstance(default, list):
                assert f"default {default}".lower() in text.replace("`", "").lower(), (name, key)


def test_scalars_of_the_schema_take_what_loading_takes():
    duration = SCHEMA["$defs"]["Timeouts"]["properties"]["header"]
    assert duration["default"] == "10s"
    assert {"type": "string", "pattern": r"\$\{"} in duration["anyOf"]
    assert len(SCHEMA["$defs"]["Route"]["oneOf"]) == 4
    assert SCHEMA["properties"]["listeners"]["minItems"] == 1


def test_the_smallest_file_has_the_defaults_of_the_snapshot():
    config = load_file(EXAMPLES / "minimal.yaml", {})
    addresses = [endpoint.address for endpoint in config.clusters[0].endpoints]
    assert build_snapshot(config, generation=1, resolved={}, slots=Slots()) == Snapshot(
        generation=1,
        listeners=(ListenerSpec("listener-1", config.listeners[0].bind),),
        clusters=(
            ClusterSpec(
                "analytics",
                endpoints=tuple(
                    EndpointSpec(f"analytics/{address}", slot, address, str(address))
                    for slot, address in enumerate(addresses)
                ),
            ),
        ),
        routes=(RouteSpec("route-1", MatchSpec(path_prefix="/"), SplitSpec((("analytics", 1),))),),
        timeouts=DownstreamTimeouts(),
        limits=Limits(),
        access_log=AccessLogSpec(),
    )


def test_the_full_example_writes_the_defaults_of_times_and_limits():
    full = load_file(EXAMPLES / "full.yaml", {})
    minimal = load_file(EXAMPLES / "minimal.yaml", {})
    for key in ("timeouts", "limits", "upgrades", "workers", "drain_timeout"):
        assert getattr(full, key) == getattr(minimal, key)
    assert full.clusters[0].timeouts == minimal.clusters[0].timeouts
    assert full.clusters[0].pool == minimal.clusters[0].pool
    assert full.clusters[0].dns == minimal.clusters[0].dns


def test_workers():
    text = (EXAMPLES / "minimal.yaml").read_text()
    assert load_bytes(text.encode(), "f", EXAMPLES, {}).workers is None
    assert load_bytes(f"{text}workers: 4\n".encode(), "f", EXAMPLES, {}).workers == 4
    assert isinstance(Config.model_fields["workers"].default, str)
