"""`/api/v1/events`: what happens, as server-sent events (WHATWG HTML, 9.2).

Each event is one JSON object under its id. Who comes back with `Last-Event-ID`, as browsers do by themselves, gets what
it missed, as far as it is kept. Events carry no name of their own, so that `onmessage` gets them all; their type is in
the object. A client that reads too slowly is cut, and finds what it missed when it comes back.
"""

import asyncio

import orjson
from aiohttp import web

from proxy.controlplane.events import Event, EventLog, Subscription

MAX_STREAMS = 32
"""Readers at once. Each holds one of the API's connections for as long as it likes."""

KEEP_ALIVE_S = 15.0
"""Seconds without an event until a comment is sent: proxies on the way close what is silent for 30 s or more."""

WRITE_S = 30.0
"""Seconds that a client may take to read what it was sent."""

RETRY_MS = 2000
"""Milliseconds until a client that lost the stream comes back."""


class EventStreams:
    """The readers of one server."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._open: set[Subscription] = set()

    def __repr__(self) -> str:
        return f"EventStreams({len(self._open)} open)"

    async def on_shutdown(self, _: web.Application) -> None:
        """End all streams: the server waits for its answers."""
        for reader in self._open:
            reader.close()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A stream that lasts until the client leaves, or is too slow, or the server stops."""
        if len(self._open) >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(reason=f"{MAX_STREAMS} streams are open, which is the most")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        reader = self._events.subscribe(_last_id(request))
        self._open.add(reader)
        try:
            await response.prepare(request)
            await response.write(b"retry: %d\n\n" % RETRY_MS)
            while chunk := await _next_chunk(reader):
                async with asyncio.timeout(WRITE_S):
                    await response.write(chunk)
        except (ConnectionResetError, ConnectionAbortedError):
            pass  # the client left
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._open.discard(reader)
            self._events.unsubscribe(reader)
        return response


async def _next_chunk(reader: Subscription) -> bytes:
    """The next events as text, or a comment when there are none for a while; empty at the end."""
    try:
        async with asyncio.timeout(KEEP_ALIVE_S):
            return b"".join(encode_event(event) for event in await reader.next())
    except TimeoutError:
        return b":\n\n"


def encode_event(event: Event) -> bytes:
    """An event as the stream has it; JSON has no line breaks."""
    return b"id: %d\ndata: %s\n\n" % (event.id, orjson.dumps(event.document()))


def _last_id(request: web.Request) -> int | None:
    """The id after which the client wants to go on; `None` = it names none."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
