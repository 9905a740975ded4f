"""What the labels of a container say of it as an endpoint. Pure."""

from collections.abc import Mapping

from pydantic import ValidationError

from proxy.config.faults import quoted
from proxy.config.schema import Endpoint
from proxy.config.values import Plain
from proxy.model import TcpAddress

LABELS = {f"homeport.{key}": key for key in ("weight", "tags", "zone", "slots", "cache", "bandwidth")}
"""Labels, and the keys of an endpoint that they stand for."""


def labelled_endpoint(address: TcpAddress, labels: Mapping[str, str]) -> tuple[Endpoint, list[str]]:
    """An endpoint at `address` as `labels` describe it, and what is wrong with them: nobody may lose a container to a
    label, so one that is wrong does not count.

    >>> labelled_endpoint(TcpAddress("10.0.0.1", 80), {"homeport.tags": "gpu, eu", "homeport.weight": "many"})[1]
    ["label homeport.weight: is not a whole number, got 'many', expected a whole number from 1 to 65535"]
    """
    said: dict[str, object] = {
        key: Plain(labels[label].strip()) for label, key in LABELS.items() if labels.get(label, "").strip()
    }
    if "tags" in said:
        said["tags"] = [Plain(tag.strip()) for tag in labels["homeport.tags"].split(",") if tag.strip()]
    faults: list[str] = []
    while True:
        try:
            return Endpoint.model_validate({"address": str(address), **said}), faults
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                key, why = str(each["loc"][0]), each.get("ctx", {})
                if said.pop(key, None) is not None:
                    label = f"homeport.{key}"
                    problem = f"{why['problem']}, got {quoted(labels[label])}, expected {why['expected']}"
                    faults.append(f"label {label}: {problem}")
