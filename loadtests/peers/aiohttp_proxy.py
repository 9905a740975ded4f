"""A plain reverse proxy on aiohttp's server and client with uvloop: what most Python gateways are, with the
same duties.

Run as `python -m loadtests.peers.aiohttp_proxy PORT ORIGIN_PORT ORIGIN_PORT`. Bodies stream in both
directions.
"""

import asyncio
import itertools
import sys
import uuid

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict

# RFC 9110 section 7.6.1, and the two that aiohttp sets by itself.
NOT_FORWARDED = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


def forwarded_headers(request: web.Request) -> "CIMultiDict[str]":
    """The request's headers as the origin gets them."""
    headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in NOT_FORWARDED)
    peer = request.remote or "unknown"
    before = headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{before}, {peer}" if before else peer
    headers["X-Forwarded-Proto"] = "http"
    headers["X-Forwarded-Host"] = request.host
    headers["Forwarded"] = f'for={peer};host="{request.host}";proto=http'
    headers.add("Via", "1.1 aiohttp")
    headers.setdefault("X-Request-Id", uuid.uuid4().hex)
    return headers


class Handler:
    """Forwards every request to the next origin."""

    def __init__(self, session: ClientSession, origins: list[int]) -> None:
        self._session = session
        self._origins = itertools.cycle([f"http://127.0.0.1:{port}" for port in origins])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, next(self._origins) + request.raw_path, headers=forwarded_headers(request),
            data=body, allow_redirects=False,
        ) as reply:  # fmt: skip
            headers = CIMultiDict((k, v) for k, v in reply.headers.items() if k.lower() not in NOT_FORWARDED)
            response = web.StreamResponse(status=reply.status, headers=headers)
            await response.prepare(request)
            async for part in reply.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response


async def serve(port: int, origins: list[int]) -> None:
    """Run until the process is ended."""
    # No timeouts: the memory rows leave readers stalled. No limit of connections, 100 by default.
    async with ClientSession(
        connector=TCPConnector(limit=0, keepalive_timeout=3600), timeout=ClientTimeout(total=None),
        auto_decompress=False, cookie_jar=DummyCookieJar(),
    ) as session:  # fmt: skip
        server = web.Server(Handler(session, origins).handle, access_log=None, keepalive_timeout=3600)  # type: ignore[arg-type]
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=8192).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
