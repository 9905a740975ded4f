"""Who may ask the admin API what: pure decisions on header fields.

Two dangers differ. *Anybody who reaches the port* is met by a token, which is demanded wherever one is
configured and wherever the bind is not loopback; `/healthz`, `/readyz` and `/metrics` stay open for
orchestrators and Prometheus. *A web page in the browser of somebody who reaches it* (DNS rebinding,
cross-site requests) cannot read that person's token, but could read the rest: its requests carry the page's
host name as Host, or its Origin, and are told apart by these. Over a Unix socket neither can come; the
socket's mode decides.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from proxy.model import Address, UnixAddress

# A host as in RFC 9110 section 7.2: a name or IPv4 address, or IPv6 in brackets, and a port.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(:[0-9]{1,5})?|\[(?P<v6>[0-9A-Fa-f:.]+)\](:[0-9]{1,5})?")


class Refusal(Enum):
    """Why a request is refused: `(status, what to do about it)`."""

    HOST_MISSING = 400, "exactly one Host field is required"
    HOST_NOT_OURS = 421, "ask by IP address, localhost or the address of admin.bind, or send the token"
    FOREIGN_ORIGIN = 403, "requests of other sites' pages are refused"
    NO_TOKEN = 401, "send Authorization: Bearer with the value of admin.token"
    WRONG_TOKEN = 401, "the token is not the value of admin.token"
    TOKEN_NOT_SET = (
        403,
        "set admin.token, or bind to loopback or a Unix socket; without, only health and metrics",
    )

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Asking:
    """What of a request matters here."""

    hosts: Sequence[str]
    """Its Host fields."""
    origin: str | None
    authorization: str | None
    is_http10: bool
    """HTTP/1.0 knows no Host, and no browser speaks it."""


class Guard:
    """The rules of one bind address; `token` is `None` when none is configured."""

    def __init__(self, bind: Address, token: str | None) -> None:
        self._is_socket = isinstance(bind, UnixAddress)
        self._bind_host = "" if isinstance(bind, UnixAddress) else bind.host
        self._is_local = self._is_socket or ip_address(self._bind_host).is_loopback
        self._token = token.encode() if token else None

    def __repr__(self) -> str:
        return f"<Guard of {self._bind_host or 'a socket'}, {'with' if self._token else 'no'} token>"

    def refusal(self, asking: Asking, *, is_open: bool) -> Refusal | None:
        """Why the request is refused, `None` when it is not. `is_open`: the path needs no token."""
        token_refusal = self._token_refusal(asking.authorization)
        if not self._is_socket:
            # Who has the token is no page of another site, and may use names that we do not know.
            has_token = self._token is not None and token_refusal is None
            if not has_token and (refused := self._host_refusal(asking)):
                return refused
            if asking.origin is not None and not _is_origin_of(asking.origin, asking.hosts):
                return Refusal.FOREIGN_ORIGIN
        return None if is_open else token_refusal

    def _token_refusal(self, authorization: str | None) -> Refusal | None:
        if self._token is None:
            return None if self._is_local else Refusal.TOKEN_NOT_SET
        scheme, _, given = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer":
            return Refusal.NO_TOKEN
        # Takes the same time wherever the first difference is.
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token):
            return Refusal.WRONG_TOKEN
        return None

    def _host_refusal(self, asking: Asking) -> Refusal | None:
        if len(asking.hosts) != 1:
            return None if asking.is_http10 and not asking.hosts else Refusal.HOST_MISSING
        return None if self._is_own_host(asking.hosts[0]) else Refusal.HOST_NOT_OURS

    def _is_own_host(self, field: str) -> bool:
        match = _HOST.fullmatch(field)
        if match is None:
            return False
        if match["v6"]:
            return _is_ip(match["v6"])
        name = match["name"].lower().removesuffix(".")
        if name == "localhost" or _is_ip(name) or name == self._bind_host:
            return True
        # Containers ask each other by a single label (`homeport:9901`), which no site on the internet has.
        return not self._is_local and "." not in name


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_origin_of(origin: str, hosts: Sequence[str]) -> bool:
    """Whether a page of this very server sent the request."""
    return len(hosts) == 1 and origin.lower() in (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
