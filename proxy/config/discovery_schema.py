"""The models of how endpoints are found that the file does not list. See `schema`."""

from typing import Annotated

from pydantic import Field, model_validator

from proxy.config import container_values as values
from proxy.config.container_schema import NetworkName
from proxy.config.kinds import Duration, File, Kind, Text, choice, fault_error, integer
from proxy.config.section import Section, written

SelectedLabel = Annotated[
    str,
    Kind(values.parse_selected_label, "the name of a label", {"type": "string"}, is_key=True),
]
DnsName = Annotated[
    str,
    Kind(values.parse_dns_name, values.DNS_EXPECTED, {"type": "string"}),
]
Record = Annotated[str, choice("a", "srv")]
# 0 says that there is none in the file.
ServicePort = Annotated[int, integer(1, 65535)]


class DockerDiscovery(Section):
    """Running containers with certain labels, wherever they came from: Docker Compose, `docker run`, or the scaler.
    Labels `homeport.port`, `.weight`, `.tags`, `.zone`, `.slots`, `.cache` and `.bandwidth` of a container say what
    those keys of an endpoint say."""

    labels: dict[SelectedLabel, Text] = Field(default_factory=dict)
    """Labels that a container must have, all of them; an empty value is any. Default `homeport.cluster` with the
    cluster's name."""
    port: ServicePort | None = None
    """Port that containers serve at, 1 to 65535; their label `homeport.port` goes before it. Default the only TCP port
    that a container has."""
    network: NetworkName = ""
    """The network to reach them by. Default: one that Homeport shares with them, then any that it can reach from the
    host, then a published port."""


class DnsDiscovery(Section):
    """Addresses that a name server has under one name."""

    name: DnsName
    """The name: `query.internal`, or `_http._tcp.query.internal` with `record: srv`. Required."""
    record: Record = "a"
    """`a`: addresses, those of IPv6 when there are no others, each an endpoint at `port`; `srv`: names, ports and
    weights; only the best priority is used. Default a."""
    port: ServicePort | None = None
    """Port of the endpoints, 1 to 65535; required with `a`, and only with it. Default none."""
    refresh: Duration = written("30s")
    """Time between two questions, at least 1s; with `srv` the answer's own time to live if that is less. Default
    30s."""

    @model_validator(mode="after")
    def _check(self) -> "DnsDiscovery":
        if (self.record == "a") == (self.port is None):
            problem = "has no port" if self.port is None else "has a port, which srv records say themselves"
            raise fault_error(problem, "a port with record: a, and only with it")
        if self.refresh < 1:
            raise fault_error("has a refresh below 1s", "at least 1s")
        return self


class FileDiscovery(Section):
    """A file with a list of endpoints, written as `endpoints` of a cluster is."""

    path: File
    """The file, YAML or JSON. It is read again when it changes; one that is wrong or gone changes nothing. There is no
    `${…}` in it. Required."""
    refresh: Duration = written("5s")
    """Time between two looks at it, at least 100ms. Default 5s."""

    @model_validator(mode="after")
    def _check(self) -> "FileDiscovery":
        if self.refresh < 0.1:
            raise fault_error("has a refresh below 100ms", "at least 100ms")
        return self


class Discovery(Section):
    """Where a cluster's endpoints come from besides its `endpoints`: exactly one of these. While the source cannot be
    asked its last answer holds."""

    docker: DockerDiscovery | None = None
    """Containers; `{}` for all defaults. Default none."""
    dns: DnsDiscovery | None = None
    """A name. Default none."""
    file: FileDiscovery | None = None
    """A file. Default none."""

    @model_validator(mode="after")
    def _check(self) -> "Discovery":
        given = [name for name in ("docker", "dns", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = "names no source" if not given else f"names several sources: {', '.join(given)}"
            raise fault_error(problem, "exactly one of docker, dns, file")
        return self
