"""An origin for `processes`: every GET is answered with three bytes, and what is upgraded gets its bytes back.

Run as `python -m loadtests.echo PORT`."""

import asyncio
import sys
from typing import cast

import uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Echo(asyncio.Protocol):
    """One connection. Requests have no body and come one at a time, as the proxy sends them."""

    def __init__(self) -> None:
        self._head = b""
        self._is_upgraded = False
        self._transport = asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base

    def data_received(self, data: bytes) -> None:
        if self._is_upgraded:
            self._transport.write(data)
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._is_upgraded = b"\r\nupgrade: websocket\r\n" in self._head.lower()
            self._transport.write(SWITCHING if self._is_upgraded else OK)
            self._head = b""


async def serve(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
