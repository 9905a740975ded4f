"""One health check: a request over a connection of its own, or the connection alone.

Nothing is reused between checks: a kept connection says nothing about whether the next one can be made. Checks go as
requests go: to the address, over TLS with the cluster's certificates and name.
"""

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

import proxy
from proxy.config.resilience_schema import HealthCheck
from proxy.model import UnixAddress
from proxy.policy.health import NO_WORD, ServiceWord, service_word
from proxy.snapshot import ClusterTlsSpec, EndpointSpec

BODY_BYTES = 64 * 1024
"""Of an answer's body, read at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to."""

    failure: str = ""
    """Why it failed, for people; empty = it passed."""
    word: ServiceWord = NO_WORD
    """What the service said of itself."""


PASSED = Verdict()


@dataclass(frozen=True, slots=True)
class Probe:
    """A check of one endpoint, and all it depends on."""

    check: HealthCheck
    endpoint: EndpointSpec
    tls: ClusterTlsSpec | None
    timeout_s: float

    async def run(self, context: ssl.SSLContext | None) -> Verdict:
        """Check once, for `timeout_s` at most; `context` is that of `tls`. Never raises but for cancellation."""
        is_http = self.check.type == "http" or (not self.check.type and bool(self.check.path))
        try:
            async with asyncio.timeout(self.timeout_s):
                return await (self._ask(context) if is_http else self._connect(context))
        except TimeoutError:
            return Verdict(f"no answer within {self.timeout_s:g} s")
        except (OSError, aiohttp.ClientError, ssl.CertificateError, ValueError) as error:
            return Verdict(_told(error))

    async def _connect(self, context: ssl.SSLContext | None) -> Verdict:
        loop = asyncio.get_running_loop()
        address = self.endpoint.address
        name = self._server_name(context)
        if isinstance(address, UnixAddress):
            transport, _ = await loop.create_unix_connection(
                asyncio.Protocol, address.path, ssl=context, server_hostname=name
            )
        else:
            transport, _ = await loop.create_connection(
                asyncio.Protocol, address.host, address.port, ssl=context, server_hostname=name
            )
        transport.abort()
        return PASSED

    async def _ask(self, context: ssl.SSLContext | None) -> Verdict:
        check = self.check
        async with (
            aiohttp.ClientSession(
                connector=self._connector(context),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
            session.request(
                check.method,
                self._url(context),
                headers=self._headers(),
                allow_redirects=False,
                server_hostname=self._server_name(context),
                ssl=context if context is not None else True,
                skip_auto_headers=("Content-Type",),
            ) as reply,
        ):
            if not any(low <= reply.status <= high for low, high in check.statuses):
                return Verdict(f"status {reply.status}")
            body = await _read(reply.content)
        if check.body and check.body.encode() not in body:
            return Verdict(f"{check.body!r} is not in the answer")
        return Verdict(word=service_word(body))

    def _connector(self, context: ssl.SSLContext | None) -> aiohttp.BaseConnector:
        address = self.endpoint.address
        if isinstance(address, UnixAddress):
            return _UnixConnector(address.path, context, self._server_name(context))
        return aiohttp.TCPConnector(force_close=True)

    def _server_name(self, context: ssl.SSLContext | None) -> str | None:
        # Without a name to verify, none is asked for.
        return self.endpoint.server_name if context is not None else None

    def _url(self, context: ssl.SSLContext | None) -> URL:
        address = self.endpoint.address
        scheme = "http" if context is None else "https"
        path = self.check.path or "/"
        if isinstance(address, UnixAddress):
            return URL.build(scheme=scheme, host="localhost", path=path)
        return URL.build(scheme=scheme, host=address.host, port=address.port, path=path)

    def _headers(self) -> CIMultiDict[str]:
        is_unix = isinstance(self.endpoint.address, UnixAddress)
        headers = CIMultiDict(
            {
                "Host": self.check.host or ("localhost" if is_unix else self.endpoint.name),
                "User-Agent": f"homeport/{proxy.__version__} (health check)",
                "Accept": "*/*",
                # The text to be found, and the service's word, are looked for in what comes.
                "Accept-Encoding": "identity",
            }
        )
        headers.update(self.check.headers)
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
        # The probe's own time limit holds, and it knows what to make of the errors.
        _, protocol = await self._loop.create_unix_connection(
            self._factory, self.path, ssl=self._context, server_hostname=self._server_name
        )
        return protocol


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, or its first `BODY_BYTES`."""
    parts: list[bytes] = []
    room = BODY_BYTES
    while room and (part := await content.read(room)):
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _told(error: Exception) -> str:
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
