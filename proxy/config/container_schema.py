"""The models of what instances are made from, and of the engine that runs them. See `schema`.

Whatever the Docker Engine would refuse is refused here; what gives a container power over the host has to be allowed
by name in `docker.allow`, which `scaler_checks` looks at."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from proxy.config import container_values as values
from proxy.config.kinds import (
    Count,
    Duration,
    File,
    Flag,
    Kind,
    Name,
    Positive,
    Size,
    Text,
    choice,
    fault_error,
    size,
)
from proxy.config.section import Section, written
from proxy.config.values import SIZE_EXPECTED
from proxy.drivers.spec import Device, Mount, Port, RestartPolicy

_TEXT = {"type": "string"}
_WORDS = {"anyOf": [_TEXT, {"type": "array", "items": {"type": ["string", "number", "boolean"]}}]}

Image = Annotated[str, Kind(values.parse_image, values.IMAGE_EXPECTED, _TEXT)]
Command = Annotated[tuple[str, ...], Kind(values.parse_command, values.COMMAND_EXPECTED, _WORDS)]
HealthCommand = Annotated[tuple[str, ...], Kind(values.parse_health_command, values.HEALTH_EXPECTED, _WORDS)]
Variable = Annotated[str, Kind(values.parse_variable, "the name of a variable", _TEXT, is_key=True)]
VariableValue = Annotated[
    str,
    Kind(values.parse_variable_value, "a text", {"type": ["string", "number", "boolean"]}, secret=True),
]
Label = Annotated[str, Kind(values.parse_label, "the name of a label", _TEXT, is_key=True)]
PortMapping = Annotated[
    Port, Kind(values.parse_port_mapping, values.PORT_EXPECTED, {"type": ["string", "integer"]})
]
MountText = Annotated[Mount, Kind(values.parse_mount, values.MOUNT_EXPECTED, _TEXT)]
Tmpfs = Annotated[tuple[str, str], Kind(values.parse_tmpfs, "/path, with options behind a colon", _TEXT)]
DeviceText = Annotated[Device, Kind(values.parse_device, values.DEVICE_EXPECTED, _TEXT)]
Restart = Annotated[RestartPolicy, Kind(values.parse_restart_policy, values.RESTART_EXPECTED, _TEXT)]
Signal = Annotated[str, Kind(values.parse_signal, values.SIGNAL_EXPECTED, {"type": ["string", "integer"]})]
Capability = Annotated[str, Kind(values.parse_capability, "a capability such as NET_ADMIN", _TEXT)]
User = Annotated[str, Kind(values.parse_user, "a user or user:group", {"type": ["string", "integer"]})]
HostPath = Annotated[str, Kind(values.parse_absolute_path, "an absolute path", {**_TEXT, "pattern": "^/"})]
NetworkName = Annotated[str, Kind(values.parse_network, "the name of a network", _TEXT)]
EngineHost = Annotated[str, Kind(values.parse_engine_host, values.HOST_EXPECTED, _TEXT)]
Pull = Annotated[str, choice("never", "missing", "always")]
Cpus = Annotated[
    float,
    Kind(
        values.parse_cpus,
        "a number of cores",
        {"type": "number", "minimum": 0, "maximum": values.MAX_CPUS},
    ),
]
Memory = Annotated[int, Kind(values.parse_memory, SIZE_EXPECTED, size().json)]


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _OneOrMany:
    """Says in the JSON Schema that one value needs no list around it."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


Networks = Annotated[tuple[NetworkName, ...], BeforeValidator(_as_list), _OneOrMany()]


def _check_grace(seconds: float) -> float:
    if seconds != int(seconds):
        raise fault_error("is no whole number of seconds", "whole seconds, which is what the engine takes")
    return seconds


Grace = Annotated[Duration, AfterValidator(_check_grace)]


class ContainerResources(Section):
    """What one instance may use up. The scaler's thresholds are percentages of `memory` and `cpus`."""

    memory: Memory = written("0")
    """Memory, beyond which the kernel kills it; at least 6MiB. Default 0 = no limit: one instance can starve the
    host."""
    cpus: Cpus = 0
    """Cores, at least 0.01; the engine refuses more than the host has. Default 0 = no limit."""
    pids: Count = 0
    """Processes and threads. Default 0 = no limit."""
    shm: Size = written("0")
    """Size of /dev/shm. Default 0 = the engine's own default, 64MiB."""
    devices: tuple[DeviceText, ...] = ()
    """Devices of the host, `/dev/name[:/dev/inside][:rwm]`, each allowed in `docker.allow.devices`. Default none."""


class ContainerHealthCheck(Section):
    """The engine's own check, by a command in the container: exactly one of `command` and `disable`. It can only veto:
    an instance gets requests once Homeport's `health_check` passes, and loses them when either of the two fails."""

    command: HealthCommand = ()
    """What is run in the container, as a list of words, or as one text for a shell in it. It fails with any exit code
    but 0. Default none."""
    disable: Flag = False
    """Switches off the check that the image has. Default false."""
    interval: Duration = written("30s")
    """Pause before each check, the first included, at least 1ms. Default 30s."""
    timeout: Duration = written("30s")
    """Time until a check has failed, at least 1ms. Default 30s."""
    retries: Positive = 3
    """Failed checks in a row that make a container unhealthy. Default 3."""
    start_period: Duration = written("0")
    """Time from the start in which failures do not count, 0 or at least 1ms. Default 0."""

    @model_validator(mode="after")
    def _check(self) -> "ContainerHealthCheck":
        if bool(self.command) == self.disable:
            raise fault_error("has neither or both of command and disable", "exactly one of them")
        if min(self.interval, self.timeout) < 0.001 or 0 < self.start_period < 0.001:
            raise fault_error("has a time below 1ms", "at least 1ms, which the engine demands")
        return self


class Container(Section):
    """What an instance is: the words are those of Docker Compose."""

    image: Image
    """The image; with a digest (`@sha256:…`) every instance is the same for ever. Required."""
    pull: Pull = "never"
    """Whether the engine fetches the image: `never` (it must be there), `missing`, `always` (at each start, so a
    registry that is down stops all scaling). Default never, which needs no access to the engine's images."""
    command: Command = ()
    """Arguments of the image's entrypoint. Default the image's."""
    entrypoint: Command = ()
    """What is run. Default the image's."""
    environment: dict[Variable, VariableValue] = Field(default_factory=dict, repr=False)
    """Variables. SERVICE_NAME (the cluster), DEPLOYMENT_TIME (of the start, UTC), CLUSTER_ID (owner and cluster) and
    DATA_PROCESSING_MODE are there unless given. Whoever may ask the engine can read them: a secret is better mounted.
    Default none."""
    processing_mode: Text = "distributed"
    """Value of DATA_PROCESSING_MODE. Default distributed."""
    working_directory: HostPath = ""
    """Where the command runs. Default the image's."""
    resources: ContainerResources = Field(default_factory=ContainerResources)
    """What an instance may use up. Default: as each key says."""
    ports: tuple[PortMapping, ...] = ()
    """Ports, `8000` or published `[ADDRESS:][HOST_PORT]:8000[/udp]`; the first TCP port is the one that serves. A
    fixed host port is for one instance only. Default none: `discovery.docker.port` says it."""
    volumes: tuple[MountText, ...] = ()
    """`VOLUME:/path[:ro]`, or `/host/path:/path[:ro]`, which must be below one of `docker.allow.mounts`. All instances
    share them. Default none."""
    tmpfs: tuple[Tmpfs, ...] = ()
    """Directories in memory, `/tmp` or `/tmp:size=64m`. Default none."""
    network: Networks = ()
    """Networks by name, one or a list; they must exist. One that Homeport is in too is the best way to reach
    instances. `host` must be allowed. Default the engine's own bridge."""
    restart_policy: Restart = written("no")
    """What the engine does when an instance ends: `no`, `always`, `unless-stopped`, `on-failure[:TIMES]`. Homeport
    replaces what does not come back, whichever it is. Default no."""
    health_check: ContainerHealthCheck | None = None
    """The engine's own check. Default none: the image's."""
    labels: dict[Label, Text] = Field(default_factory=dict)
    """Labels; `homeport.weight`, `.tags`, `.zone`, `.slots`, `.cache` and `.bandwidth` say of the endpoint what those
    keys of an endpoint say. Default none."""
    user: User = ""
    """`user[:group]`, by name or number. Default the image's."""
    read_only: Flag = False
    """Nothing can be written but to volumes and tmpfs. Default false."""
    cap_add: tuple[Capability, ...] = ()
    """Capabilities beyond the engine's usual ones, each allowed in `docker.allow.capabilities`. Default none."""
    cap_drop: tuple[Capability, ...] = ()
    """Capabilities that are taken away, or ALL. Default none."""
    no_new_privileges: Flag = True
    """Programs with a set-user-ID bit gain nothing. Default true."""
    privileged: Flag = False
    """Everything the host can do; must be allowed. Default false."""
    host_pid: Flag = False
    """Sees the host's processes; must be allowed. Default false."""
    init: Flag = False
    """The engine's small init runs as PID 1, reaps orphans and passes signals on. Default false."""
    stop_signal: Signal = ""
    """How an instance is asked to end. Default the image's, or SIGTERM."""
    stop_grace: Grace = written("10s")
    """Time from that to SIGKILL, whole seconds; whoever else stops it has to give as much. Default 10s."""

    @model_validator(mode="after")
    def _check(self) -> "Container":
        targets = [mount.target for mount in self.volumes] + [path for path, _ in self.tmpfs]
        if len(set(targets)) < len(targets):
            raise fault_error("mounts something at the same path twice", "each path once")
        ports = [(port.port, port.protocol, port.host_address, port.host_port) for port in self.ports]
        if len(set(ports)) < len(ports):
            raise fault_error("has the same port twice", "each port once")
        if len(set(self.network)) < len(self.network):
            raise fault_error("has the same network twice", "each network once")
        if "host" in self.network and (
            len(self.network) > 1 or any(port.is_published for port in self.ports)
        ):
            raise fault_error("has network: host beside networks or published ports", "network: host alone")
        return self


class Process(Section):
    """A local process on loopback, in place of a container."""

    command: Command
    """What is run; `{port}` in it is the port to serve at 127.0.0.1, which is in the variable PORT too. Required."""
    environment: dict[Variable, VariableValue] = Field(default_factory=dict, repr=False)
    """Variables, beside PATH, HOME, LANG and the ones that a container has. Default none."""
    processing_mode: Text = "distributed"
    """Value of DATA_PROCESSING_MODE. Default distributed."""
    working_directory: HostPath = ""
    """Where it runs. Default where Homeport does."""
    memory: Size = written("0")
    """Private memory that each of its processes may ask for; beyond it the request fails. Default 0 = no limit."""
    stop_signal: Signal = "SIGTERM"
    """How it is asked to end. Default SIGTERM."""
    stop_grace: Duration = written("10s")
    """Time from that to SIGKILL. Default 10s."""


class EngineTls(Section):
    """TLS to the engine."""

    ca: File
    """File with the certificates in PEM form that sign the engine's. Required."""
    cert: File
    """File with the certificate that Homeport shows, in PEM form. Required."""
    key: File
    """File with its private key. Required."""


class Allow(Section):
    """What containers may have that gives them power over the host. Nothing of it unless it is named here."""

    privileged: Flag = False
    """`privileged: true` in a container. Default false."""
    host_network: Flag = False
    """`network: host`. Default false."""
    host_pid: Flag = False
    """`host_pid: true`. Default false."""
    capabilities: tuple[Capability, ...] = ()
    """Capabilities that `cap_add` may name. Default none."""
    mounts: tuple[HostPath, ...] = ()
    """Directories of the host that volumes may be, or be below. Default none."""
    devices: tuple[HostPath, ...] = ()
    """Devices of the host that `resources.devices` may name. Default none."""


class Docker(Section):
    """The Docker Engine. Who can talk to it is root on its host: only the control process does, with few calls."""

    host: EngineHost = ""
    """`unix:///path` or `tcp://host:port`. Default $DOCKER_HOST, or unix:///var/run/docker.sock."""
    tls: EngineTls | None = None
    """TLS to `tcp://`, with a client certificate. Default none: $DOCKER_TLS_VERIFY and $DOCKER_CERT_PATH say it."""
    timeout: Duration = written("10s")
    """Longest wait for an answer, 100ms to 5m; a stop may take its grace in addition. Default 10s."""
    owner: Name = "homeport"
    """Whose instances are whose: Homeport touches those alone that carry its own. The same after a restart, another
    for each Homeport at one engine. Default homeport."""
    allow: Allow = Field(default_factory=Allow)
    """What containers may have that gives them power over the host. Default: as each key says."""

    @model_validator(mode="after")
    def _check(self) -> "Docker":
        if not 0.1 <= self.timeout <= 300:
            raise fault_error("has a timeout outside of 100ms to 5m", "a time such as 10s")
        if self.tls is not None and not self.host.startswith("tcp://"):
            raise fault_error("has tls without a tcp:// host", "host: tcp://…, or no tls")
        return self
