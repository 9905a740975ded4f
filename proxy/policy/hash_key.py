"""What of a request consistent hashing goes by."""

import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote_to_bytes

from proxy.policy.path import routing_path
from proxy.policy.stickiness import cookie_value
from proxy.snapshot import HashSpec


class Request(Protocol):
    """What is looked at of a request."""

    @property
    def path(self) -> bytes:
        """The target without its query, as it came."""
        ...

    @property
    def query(self) -> bytes:
        """The query with its `?`, or empty."""
        ...

    def field(self, name: bytes) -> bytes | None:
        """Value of the field with lower-case `name`; `None` when absent."""
        ...


class HashKey:
    """Finds the key of a request: the first of header, query, cookie, path and client's address that `spec` names and
    that is there and not empty."""

    __slots__ = ("_cookie", "_header", "_is_by_client", "_is_by_path", "_query")

    def __init__(self, spec: HashSpec) -> None:
        self._header = spec.header.encode()
        self._query = (
            re.compile(rb"[?&]" + re.escape(spec.query.encode()) + rb"=([^&]*)") if spec.query else None
        )
        self._cookie = spec.cookie.encode()
        self._is_by_path = spec.path
        self._is_by_client = spec.client_address

    def of(self, request: Request, client: Callable[[], str]) -> bytes | None:
        """The key, `None` when the request has none. `client` gives the client's address, empty when unknown.

        By `query: dataset`, `?v=2&dataset=a%2Fb` has `a/b`; of several parameters of that name the first counts.
        """
        if self._header and (value := request.field(self._header)):
            return value
        if request.query and (value := self._query_value(request.query)):
            return value
        if self._cookie and (value := cookie_value(request.field(b"cookie") or b"", self._cookie)):
            return value
        if self._is_by_path:
            return routing_path(request.path).encode("utf-8", "surrogateescape")
        return client().encode() or None if self._is_by_client else None

    def _query_value(self, query: bytes) -> bytes | None:
        found = self._query.search(query) if self._query is not None else None
        if found is None:
            return None
        value = found[1]
        return unquote_to_bytes(value.replace(b"+", b" ")) if b"%" in value or b"+" in value else value
