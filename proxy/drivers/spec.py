"""What an instance is made from: plain values, checked by the configuration, that drivers turn into containers or
processes.

Instances belong to the same deployment when the digests of their specs are equal. So what differs between instances of
one deployment, such as the time of their start, is no part of a spec; drivers add it.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b

Pairs = tuple[tuple[str, str], ...]
"""Names and values in the order of the file; a mapping that can be hashed."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What an instance may use up."""

    memory_bytes: int = 0
    """At most this much memory, swap not counted; then the kernel kills it. 0 = no limit, else at least 6 MiB, which
    the engine demands."""
    cpus: float = 0.0
    """Cores. 0 = no limit, else at least 0.01."""
    pids: int = 0
    """Processes and threads. 0 = no limit."""
    shm_bytes: int = 0
    """Size of /dev/shm. 0 = the engine's own default, 64 MiB."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the host that an instance sees."""

    host_path: str
    path: str
    permissions: str = "rwm"
    """Out of `r`, `w` and `m` (mknod)."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the container, and where on the host it is published, if it is."""

    port: int
    protocol: str = "tcp"
    """tcp, udp or sctp."""
    is_published: bool = False
    host_address: str = ""
    """Address of the host; empty = all of them."""
    host_port: int = 0
    """0 = one that the engine picks, another one at each start."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume or a directory of the host in the container."""

    source: str
    """Name of a volume, or an absolute path of the host."""
    target: str
    read_only: bool = False

    @property
    def is_host_path(self) -> bool:
        """Whether it is a directory of the host rather than a volume."""
        return self.source.startswith("/")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What the engine does by itself when a container ends."""

    name: str = "no"
    """no, always, on-failure or unless-stopped."""
    max_retries: int = 0
    """With on-failure: how often. 0 = for ever."""


@dataclass(frozen=True, slots=True)
class EngineHealthCheck:
    """The engine's own check, by a command in the container. It can only veto: readiness is what Homeport asks for."""

    command: tuple[str, ...]
    """`("NONE",)` switches off the image's; otherwise it begins with CMD or CMD-SHELL."""
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container as the engine is asked for it."""

    image: str
    """Reference: a name with a tag or a digest."""
    pull: str = "never"
    """never, missing or always."""
    command: tuple[str, ...] = ()
    """Empty = the image's."""
    entrypoint: tuple[str, ...] = ()
    """Empty = the image's."""
    environment: Pairs = ()
    processing_mode: str = "distributed"
    """Value of DATA_PROCESSING_MODE."""
    working_directory: str = ""
    """Empty = the image's."""
    resources: Resources = Resources()
    devices: tuple[Device, ...] = ()
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: Pairs = ()
    """(path, mount options)."""
    networks: tuple[str, ...] = ()
    """Names; the first is where it starts. Empty = the engine's default bridge."""
    restart_policy: RestartPolicy = RestartPolicy()
    health_check: EngineHealthCheck | None = None
    """`None` = the image's."""
    labels: Pairs = ()
    user: str = ""
    """`user` or `user:group`, names or numbers. Empty = the image's."""
    read_only: bool = False
    """Nothing can be written but to mounts."""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    host_pid: bool = False
    no_new_privileges: bool = True
    init: bool = False
    """The engine's init as PID 1, which reaps orphans and passes signals on."""
    stop_signal: str = ""
    """Empty = the image's, or SIGTERM."""
    stop_grace_s: float = 10.0
    """From the stop signal to SIGKILL."""

    def __repr__(self) -> str:
        return f"<ContainerSpec {self.image} {self.digest()}>"  # the environment holds secrets

    def digest(self) -> str:
        """16 hexadecimal digits that change with anything that changes the container."""
        return _digest(self)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A local process. `{port}` in the command and PORT in its environment are the port that it has to serve."""

    command: tuple[str, ...]
    environment: Pairs = ()
    """In place of what Homeport itself was started with, of which it gets only PATH and the like."""
    processing_mode: str = "distributed"
    working_directory: str = ""
    """Empty = Homeport's own."""
    memory_bytes: int = 0
    """Private memory that each of its processes may ask for (RLIMIT_DATA). 0 = no limit."""
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0

    def __repr__(self) -> str:
        return f"<ProcessSpec {self.command[0]} {self.digest()}>"

    def digest(self) -> str:
        """16 hexadecimal digits that change with anything of the spec."""
        return _digest(self)


InstanceSpec = ContainerSpec | ProcessSpec


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where the Docker Engine is and how long Homeport waits for it."""

    host: str = ""
    """`unix:///path` or `tcp://host:port`. Empty = DOCKER_HOST, or /var/run/docker.sock."""
    ca_file: str = ""
    """Certificates that sign the engine's. With the two below: TLS. All empty = as DOCKER_TLS_VERIFY says."""
    certificate_file: str = ""
    key_file: str = ""
    timeout_s: float = 10.0
    """For any answer; a stop may take its grace in addition."""
    owner: str = "homeport"
    """Whose instances are ours, after a restart too."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which containers belong to a cluster, whoever started them."""

    cluster: str
    labels: Pairs
    """All of them must be there with these values; an empty value = any."""
    port: int = 0
    """That they serve on, unless their own label says otherwise. 0 = the only one they have."""
    network: str = ""
    """Only addresses in this network. Empty = any, in the order of `Instance.addresses`."""


def _digest(spec: ContainerSpec | ProcessSpec) -> str:
    values = asdict(spec)
    values.pop("pull", None)  # says where the image comes from, not what runs
    text = json.dumps([type(spec).__name__, values], sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()
