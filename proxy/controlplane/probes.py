"""One health check: a request over a connection of its own, or the connection alone; see `asking`."""

import asyncio
import ssl
from dataclasses import dataclass

from proxy.config.resilience_schema import HealthCheck
from proxy.controlplane.asking import FAILURES, asked, read, server_name, told
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
        except FAILURES as error:
            return Verdict(told(error))

    async def _connect(self, context: ssl.SSLContext | None) -> Verdict:
        loop = asyncio.get_running_loop()
        address = self.endpoint.address
        name = server_name(self.endpoint, context)
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
        async with asked(
            self.endpoint,
            context,
            path=check.path or "/",
            purpose="health check",
            method=check.method,
            host=check.host,
            headers=check.headers,
        ) as reply:
            if not any(low <= reply.status <= high for low, high in check.statuses):
                return Verdict(f"status {reply.status}")
            body = await read(reply.content, BODY_BYTES)
        if check.body and check.body.encode() not in body:
            return Verdict(f"{check.body!r} is not in the answer")
        return Verdict(word=service_word(body))
