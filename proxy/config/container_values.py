"""From the text of one scalar to what containers are made of. See `values` for the parsers' promise.

The rules are those of the Docker Engine, which would refuse the rest at the first start, when nobody looks.
"""

import re
import shlex
import signal
from ipaddress import ip_address

from proxy.config.addresses import parse_host_name
from proxy.config.faults import BadValue
from proxy.config.values import parse_number, parse_size, scalar_text
from proxy.drivers.spec import Device, Mount, Port, RestartPolicy

# https://github.com/distribution/reference: a registry, path components, then a tag or a digest.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_IMAGE = re.compile(
    rf"(?:{_REGISTRY}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
IMAGE_EXPECTED = "an image such as registry.example.com/query:1.4 or query@sha256:…"

OBJECT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]+$"
_OBJECT = re.compile(OBJECT_PATTERN[1:-1])
_VARIABLE = re.compile(r"[^=\0\s]{1,256}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
_PERMISSIONS = re.compile(r"(?!.*(.).*\1)[rwm]{1,3}")
_PROTOCOLS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_TMPFS_SIZE = re.compile(r"/[^:,]*(?::[A-Za-z0-9_=,]+)?")

PORT_EXPECTED = (
    "PORT, HOST_PORT:PORT, ADDRESS:HOST_PORT:PORT or ADDRESS::PORT, with /tcp, /udp or /sctp behind it"
)
MOUNT_EXPECTED = "VOLUME:/path or /host/path:/path, with :ro or :rw behind it"
DEVICE_EXPECTED = "/dev/name, with :/dev/inside and :rwm behind it"
RESTART_EXPECTED = "no, always, unless-stopped, on-failure or on-failure:TIMES"
SIGNAL_EXPECTED = "a signal such as SIGTERM, SIGRTMIN+3 or 15"
COMMAND_EXPECTED = "a command: a text, which is split as a shell does, or a list of texts"
HEALTH_EXPECTED = "a list of words, or one text for a shell"
HOST_EXPECTED = "unix:///var/run/docker.sock or tcp://host:2376"
DNS_EXPECTED = "a name such as query.internal or _http._tcp.query.internal"

MIN_MEMORY_BYTES = 6 * 2**20
MAX_CPUS = 1024
# capabilities(7). The engine refuses any other.
CAPABILITIES = frozenset(
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH"
    " FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN"
    " NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT"
    " SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG"
    " WAKE_ALARM".split()
)
# What the driver itself writes; the rest of `homeport.` says what discovery reads.
OWN_LABELS = frozenset({"homeport.owner", "homeport.cluster", "homeport.spec", "homeport.started"})


def parse_memory(value: object) -> int:
    """A limit of memory in bytes; 0 = none. The engine refuses less than 6 MiB (moby, linuxMinMemory)."""
    size = parse_size(value)
    if 0 < size < MIN_MEMORY_BYTES:
        raise BadValue("is too little", "0, or at least 6MiB, which the engine demands")
    return size


def parse_cpus(value: object) -> float:
    """A limit in cores; 0 = none. The engine refuses less than 0.01."""
    cpus = parse_number(value, 0, MAX_CPUS)
    if 0 < cpus < 0.01:
        raise BadValue("is too little", "0, or at least 0.01, which the engine demands")
    return cpus


def parse_image(value: object) -> str:
    """A reference to an image."""
    text = scalar_text(value, IMAGE_EXPECTED)
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        upper = text.lower() != text and _IMAGE.fullmatch(text.lower())
        raise BadValue("has capitals in its name" if upper else "is not an image", IMAGE_EXPECTED)
    return str(text)


def parse_command(value: object) -> tuple[str, ...]:
    """Words of a command."""
    if isinstance(value, list | tuple):
        words = [scalar_text(word, "a text") for word in value]
    else:
        try:
            words = shlex.split(scalar_text(value, COMMAND_EXPECTED))
        except ValueError as error:
            raise BadValue("has a quote that is not closed", COMMAND_EXPECTED) from error
    if not words or not words[0]:
        raise BadValue("is empty", COMMAND_EXPECTED)
    if any("\0" in word for word in words):
        raise BadValue("has a NUL", COMMAND_EXPECTED)
    return tuple(str(word) for word in words)


def parse_health_command(value: object) -> tuple[str, ...]:
    """A command as the engine's health check has it: words are run as they are, one text by a shell."""
    if isinstance(value, list | tuple):
        return ("CMD", *parse_command(value))
    text = scalar_text(value, HEALTH_EXPECTED)
    if not text.strip() or "\0" in text:
        raise BadValue("is not a command", HEALTH_EXPECTED)
    return ("CMD-SHELL", str(text))


def parse_variable(value: object) -> str:
    """The name of an environment variable."""
    expected = "the name of a variable, without '=' and space"
    text = scalar_text(value, expected)
    if not _VARIABLE.fullmatch(text):
        raise BadValue("is not the name of a variable", expected)
    return str(text)


def parse_variable_value(value: object) -> str:
    """The value of an environment variable."""
    text = scalar_text(value, "a text")
    if "\0" in text or len(text) > 128 * 1024:  # MAX_ARG_STRLEN of Linux
        raise BadValue("is not a variable's value", "a text of at most 128 KiB without NUL")
    return str(text)


def parse_label(value: object) -> str:
    """The name of a label that a user may set."""
    expected = "the name of a label, such as com.example.team"
    text = scalar_text(value, expected)
    if not text or len(text) > 256 or not text.isprintable() or "=" in text:
        raise BadValue("is not a label", expected)
    if text in OWN_LABELS:
        raise BadValue("is a label that Homeport sets itself", "another one")
    return str(text)


def parse_selected_label(value: object) -> str:
    """The name of a label to find containers by."""
    expected = "the name of a label, such as homeport.cluster"
    text = scalar_text(value, expected)
    if not text or len(text) > 256 or not text.isprintable() or "=" in text:
        raise BadValue("is not a label", expected)
    return str(text)


def parse_port_mapping(value: object) -> Port:
    """A port, and where it is published, as `docker run --publish` has it; no ranges."""
    text = scalar_text(value, PORT_EXPECTED)
    rest, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    host, port = ("", rest) if ":" not in rest else rest.rsplit(":", 1)
    if protocol not in _PROTOCOLS or text.endswith("/"):
        raise BadValue("has no known protocol", PORT_EXPECTED)
    inside = _port(port)
    if ":" not in rest:
        return Port(inside, protocol)
    address, colon, host_port = host.rpartition(":")
    if colon:
        address = _host_address(address)
    return Port(inside, protocol, True, address, _port(host_port) if host_port else 0)


def _port(text: str) -> int:
    if "-" in text:
        raise BadValue("is a range of ports", "one port for each entry")
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise BadValue("has no valid port", PORT_EXPECTED)
    return int(text)


def _host_address(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError as error:
        raise BadValue("has no valid host address", PORT_EXPECTED) from error


def parse_mount(value: object) -> Mount:
    """A volume or a host directory, as `docker run --volume` has it; no anonymous volumes."""
    text = scalar_text(value, MOUNT_EXPECTED)
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 else "rw"
    if len(parts) != 2 or mode not in ("ro", "rw"):
        raise BadValue("is not a volume", MOUNT_EXPECTED)
    source, target = parts
    if not (_is_path(source) if source.startswith("/") else _OBJECT.fullmatch(source)):
        raise BadValue("has no valid source", MOUNT_EXPECTED)
    if not _is_path(target) or not target.strip("/"):
        raise BadValue("has no valid path in the container", "an absolute path other than /")
    return Mount(source, target.rstrip("/"), mode == "ro")


def _is_path(text: str) -> bool:
    parts = text.split("/")
    return text.startswith("/") and text.isprintable() and not {".", ".."} & set(parts)


def parse_tmpfs(value: object) -> tuple[str, str]:
    """A directory in memory: a path, with mount options behind a colon."""
    expected = "/path or /path:size=64m,mode=1777"
    text = scalar_text(value, expected)
    path, _, options = text.partition(":")
    if not _TMPFS_SIZE.fullmatch(text) or not _is_path(path) or not path.strip("/"):
        raise BadValue("is not a tmpfs", expected)
    return path.rstrip("/"), options


def parse_device(value: object) -> Device:
    """A device of the host, as `docker run --device` has it."""
    text = scalar_text(value, DEVICE_EXPECTED)
    host, *more = text.split(":")
    inside = more.pop(0) if more and more[0].startswith("/") else host
    permissions = more.pop(0) if more else "rwm"
    if more or not _is_path(host) or not _is_path(inside) or not _PERMISSIONS.fullmatch(permissions):
        raise BadValue("is not a device", DEVICE_EXPECTED)
    return Device(host, inside, permissions)


def parse_restart_policy(value: object) -> RestartPolicy:
    """What the engine does when a container ends."""
    if value is False:  # YAML 1.1 has it that `no` is a boolean; some tools write it back so
        return RestartPolicy()
    name, colon, times = scalar_text(value, RESTART_EXPECTED).partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise BadValue("is not a restart policy", RESTART_EXPECTED)
    if colon and (name != "on-failure" or not _NUMBER.fullmatch(times)):
        raise BadValue("has a number of times that means nothing", RESTART_EXPECTED)
    return RestartPolicy(name, int(times) if colon else 0)


def parse_signal(value: object) -> str:
    """A signal of Linux, by name or number."""
    text = scalar_text(value, SIGNAL_EXPECTED).upper()
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 64:
        return text
    name = text if text.startswith("SIG") else f"SIG{text}"
    base, _, offset = name.partition("+") if "+" in name else name.partition("-")
    known = name in signal.Signals.__members__
    real_time = base in ("SIGRTMIN", "SIGRTMAX") and offset.isdecimal() and 0 < int(offset) <= 15
    if not known and not real_time:
        raise BadValue("is not a signal", SIGNAL_EXPECTED)
    return name


def parse_capability(value: object) -> str:
    """A capability of Linux, with or without CAP_."""
    expected = "a capability such as NET_ADMIN, or ALL"
    text = scalar_text(value, expected).upper().removeprefix("CAP_")
    if text not in CAPABILITIES:
        raise BadValue("is not a capability", expected)
    return text


def parse_user(value: object) -> str:
    """A user in the container, with or without a group."""
    expected = "a user or user:group, by name or number"
    text = scalar_text(value, expected)
    numbers = [part for part in text.split(":") if part.isdecimal()]
    if not _USER.fullmatch(text) or any(int(number) >= 2**31 for number in numbers):
        raise BadValue("is not a user", expected)
    return str(text)


def parse_absolute_path(value: object) -> str:
    """An absolute path without `.` and `..`."""
    text = scalar_text(value, "an absolute path")
    if not _is_path(text) or len(text) > 4096:
        raise BadValue("is not an absolute path", "an absolute path without '.' and '..'")
    return text.rstrip("/") or "/"


def parse_network(value: object) -> str:
    """A network by its name; `host` shares the host's own."""
    expected = "the name of a network, or host"
    text = scalar_text(value, expected)
    if text == "none" or text.startswith("container:"):
        raise BadValue("gives an instance no address of its own", expected)
    if not _OBJECT.fullmatch(text):
        raise BadValue("is not the name of a network", expected)
    return str(text)


def parse_engine_host(value: object) -> str:
    """Where the Docker Engine is."""
    text = scalar_text(value, HOST_EXPECTED)
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    is_socket = scheme == "unix" and _is_path(rest) and rest.strip("/")
    is_tcp = scheme == "tcp" and host and _NUMBER.fullmatch(port) and int(port) <= 65535 and "/" not in rest
    if not is_socket and not is_tcp:
        raise BadValue("is not an engine's address", HOST_EXPECTED)
    return str(text)


def parse_dns_name(value: object) -> str:
    """A name that a name server is asked for; those of SRV records have labels with underscores."""
    text = scalar_text(value, DNS_EXPECTED)
    try:
        return parse_host_name(text)
    except BadValue as error:
        raise BadValue("is not a name", DNS_EXPECTED) from error
