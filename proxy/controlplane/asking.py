"""Requests of control's own to endpoints: health checks, and what they hold.

They go as clients' requests go: to the address, over TLS with the cluster's certificates and name. Each has a
connection of its own: a kept one says nothing about whether the next can be made.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

import proxy
from proxy.model import UnixAddress
from proxy.snapshot import ClusterTlsSpec, EndpointSpec
from proxy.tls import client_context

FAILURES = (OSError, aiohttp.ClientError, ssl.CertificateError, ValueError)
"""What a request, and reading its answer, may raise, besides `TimeoutError`; `told` has words for it."""


class Contexts:
    """TLS contexts of clusters, each made once."""

    def __init__(self) -> None:
        self._contexts: dict[ClusterTlsSpec, ssl.SSLContext] = {}

    def __repr__(self) -> str:
        return f"Contexts({len(self._contexts)})"

    def of(self, spec: ClusterTlsSpec | None) -> ssl.SSLContext | None:
        """That of `spec`; `None` for plain text."""
        if spec is None:
            return None
        context = self._contexts.get(spec)
        if context is None:
            context = self._contexts[spec] = client_context(spec)
        return context

    def keep(self, used: Iterable[ClusterTlsSpec | None]) -> None:
        """Forget all others."""
        wanted = set(used)
        self._contexts = {spec: context for spec, context in self._contexts.items() if spec in wanted}


@asynccontextmanager
async def asked(
    endpoint: EndpointSpec,
    context: ssl.SSLContext | None,
    *,
    path: str,
    purpose: str,
    method: str = "GET",
    host: str = "",
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The endpoint's answer to a request for `path`; `purpose` is in its User-Agent, an empty `host` is the endpoint's
    own. Without a time limit: the caller has one. Raises `FAILURES`."""
    async with (
        aiohttp.ClientSession(
            connector=_connector(endpoint, context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session,
        session.request(
            method,
            _url(endpoint, context, path),
            headers=_headers(endpoint, host, purpose, headers or {}),
            allow_redirects=False,
            server_hostname=server_name(endpoint, context),
            ssl=context if context is not None else True,
            skip_auto_headers=("Content-Type",),
        ) as reply,
    ):
        yield reply


async def read(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    """The body, or its first `most_bytes`."""
    parts: list[bytes] = []
    while most_bytes and (part := await content.read(most_bytes)):
        parts.append(part)
        most_bytes -= len(part)
    return b"".join(parts)


def server_name(endpoint: EndpointSpec, context: ssl.SSLContext | None) -> str | None:
    """What its certificate must name. Without TLS, or a name to verify, none is asked for."""
    return endpoint.server_name if context is not None else None


def told(error: Exception) -> str:
    """An error in few words: the system's or OpenSSL's, which aiohttp wraps, or its own."""
    while isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    # asyncio's own text of a refused connection does not say that it was refused.
    known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    text = known or str(error) or type(error).__name__
    return text.splitlines()[0][:200].lower()


def _connector(endpoint: EndpointSpec, context: ssl.SSLContext | None) -> aiohttp.BaseConnector:
    if isinstance(endpoint.address, UnixAddress):
        return _UnixConnector(endpoint.address.path, context, server_name(endpoint, context))
    return aiohttp.TCPConnector(force_close=True)


def _url(endpoint: EndpointSpec, context: ssl.SSLContext | None, path: str) -> URL:
    """Paths are plain text, queries as they are sent."""
    address = endpoint.address
    scheme = "http" if context is None else "https"
    path, mark, query = path.partition("?")
    if isinstance(address, UnixAddress):
        url = URL.build(scheme=scheme, host="localhost", path=path)
    else:
        url = URL.build(scheme=scheme, host=address.host, port=address.port, path=path)
    return URL(f"{url}?{query}", encoded=True) if mark else url


def _headers(endpoint: EndpointSpec, host: str, purpose: str, more: Mapping[str, str]) -> CIMultiDict[str]:
    is_unix = isinstance(endpoint.address, UnixAddress)
    headers = CIMultiDict(
        {
            "Host": host or ("localhost" if is_unix else endpoint.name),
            "User-Agent": f"homeport/{proxy.__version__} ({purpose})",
            "Accept": "*/*",
            # What comes is looked into.
            "Accept-Encoding": "identity",
        }
    )
    headers.update(more)
    return headers


class _UnixConnector(aiohttp.UnixConnector):
    """aiohttp's, which would speak plain text to whatever the URL says, with TLS."""

    def __init__(self, path: str, context: ssl.SSLContext | None, server_name: str | None) -> None:
        super().__init__(path, force_close=True)
        self._context = context
        self._server_name = server_name

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 aiohttp's
    ) -> ResponseHandler:
        # The caller's own time limit holds, and it knows what to make of the errors.
        _, protocol = await asyncio.get_running_loop().create_unix_connection(
            self._factory, self.path, ssl=self._context, server_hostname=self._server_name
        )
        return protocol
