"""The words that every part shares: what a request is known by, how an exchange ended, where an endpoint is."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A numeric IP address and port; names are resolved before they get here."""

    host: str
    """IPv4 or IPv6 literal, without brackets."""
    port: int
    """1–65535; 0 only on a listener, where it means any free port."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class RequestFacts(NamedTuple):
    """What a picker may know about a request. Empty facts suit every balancer that looks at load alone.

    A tuple, because one is made for each request: a frozen dataclass of so many fields takes twice as long.
    """

    data_keys: tuple[bytes, ...] = ()
    """Names of the data the request is about, each once and at most 64 bytes (`policy.data_key.short_key`); empty when
    unknown."""
    size_bytes: int | None = None
    """Size of all that data together, as the request says; `None` when it does not."""
    tags: frozenset[str] = frozenset()
    """Words that the request came with, to be compared with the endpoints' tags."""
    work_class: bytes = b""
    """Its processing type, in lower case and at most 64 bytes: requests of one type take about as long as each other.
    Empty when it says none."""
    require: frozenset[str] = frozenset()
    """Tags that its endpoint must have."""
    prefer: tuple[tuple[str, float], ...] = ()
    """(tag, seconds by which an endpoint without it is farther away)."""
    hash_key: bytes | None = None
    """What consistent hashing goes by; `None` when the request has none."""
    affinity: bytes | None = None
    """Value of the cookie that names the endpoint of earlier requests; not yet validated."""


NO_FACTS = RequestFacts()


class Outcome(Enum):
    """How an exchange ended, as the access log and the endpoint's counters say it."""

    OK = "ok"
    """A complete reply reached the client (whatever its status)."""
    REFUSED = "refused"
    """Homeport answered: the request was bad or there was nowhere to send it."""
    UPSTREAM_FAILED = "upstream_failed"
    """The endpoint could not be reached, timed out, or broke its answer."""
    CLIENT_GONE = "client_gone"
    """The client left or was cut; says nothing about the endpoint."""
    LOCAL = "local"
    """A fixed response or a redirect of the configuration."""
