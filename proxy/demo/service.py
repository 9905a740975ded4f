"""A sample data service: an endpoint for the demo, for tests and for trying Homeport by hand.

    python -m proxy.demo.service --port 0 --name data-1

prints `{"service": "data-1", "host": "127.0.0.1", "port": 40123}` once it listens, and answers

    GET  /health                             who answers, and the id of its process
    GET  /query?dataset=NAME[&think_ms=MS]   a small JSON result of NAME alone, after MS milliseconds of work
    GET  /bytes/N                            N deterministic bytes, streamed; N up to 1 GiB
    POST /upload, PUT /upload                reads the body; its length and SHA-256
    GET  /slow/MS                            an answer after MS milliseconds, up to ten minutes

A query takes one of the service's slots and waits in line for it. Its dataset has a size of 8 to 40 MiB; one that the
service does not hold is fetched first, which takes size / bandwidth, and is held until others need the room.
`X-Data-Cache: hit` or `miss` in the answer says which it was.

HEAD works wherever GET does. Every answer names its service in `X-Service`. SIGTERM and SIGINT finish what is under way
and stop; so does the death of the parent, so that no test or demo leaves one behind.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import sys
from dataclasses import dataclass

import orjson
import uvloop
from aiohttp import web

from proxy.children import ask_for_death_signal
from proxy.clock import Clock, SystemClock
from proxy.demo import sample
from proxy.demo.cache import DataCache

SERVICE_HEADER = "X-Service"
CACHE_HEADER = "X-Data-Cache"
_MAX_THINK_MS = 600_000
_MAX_DATASET_CHARS = 128
_UPLOAD_CHUNK_BYTES = 1 << 16
# Long enough for the demo's own requests; a service is not worth waiting longer for.
_SHUTDOWN_S = 5.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Resources:
    """What a service has."""

    slots: int = 4
    """Queries that it works on at once, at least 1; others wait in line."""
    cache_bytes: int = 256 << 20
    """Data that it holds; 0 = every query is a miss."""
    bandwidth_bytes_per_s: float = 400e6
    """At which one query gets data that the service does not hold; others do not slow it down."""


_NAME = web.AppKey("name", str)
_CLOCK = web.AppKey("clock", Clock)
_SLOTS = web.AppKey("slots", asyncio.Semaphore)
_CACHE = web.AppKey("cache", DataCache)
_BANDWIDTH = web.AppKey("bandwidth", float)


def make_app(name: str, clock: Clock, resources: Resources | None = None) -> web.Application:
    """The service called `name`, ready to be served; `None` = the usual resources."""
    resources = resources or Resources()
    app = web.Application()
    app[_NAME] = name
    app[_CLOCK] = clock
    app[_SLOTS] = asyncio.Semaphore(resources.slots)
    app[_CACHE] = DataCache(resources.cache_bytes)
    app[_BANDWIDTH] = resources.bandwidth_bytes_per_s
    app.on_response_prepare.append(_name_service)
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/query", _query),
            web.get("/bytes/{length}", _bytes),
            web.post("/upload", _upload),
            web.put("/upload", _upload),
            web.get("/slow/{ms}", _slow),
        ]
    )
    return app


async def _name_service(request: web.Request, response: web.StreamResponse) -> None:
    name: str = request.app[_NAME]
    response.headers[SERVICE_HEADER] = name


async def _health(request: web.Request) -> web.Response:
    return _json({"service": request.app[_NAME], "status": "ok", "pid": os.getpid()})


async def _query(request: web.Request) -> web.Response:
    dataset = request.query.get("dataset", "")
    if not 1 <= len(dataset) <= _MAX_DATASET_CHARS:
        raise _bad_request(f"dataset: expected 1 to {_MAX_DATASET_CHARS} characters, got {len(dataset)}")
    think_ms = _milliseconds(request.query.get("think_ms", "0"))
    async with request.app[_SLOTS]:
        is_hit = await _have(request.app, dataset)
        await _pause(request.app, think_ms / 1000)
    service: str = request.app[_NAME]
    answer = _json({"service": service, "dataset": dataset, "result": sample.query_result(dataset)})
    answer.headers[CACHE_HEADER] = "hit" if is_hit else "miss"
    return answer


async def _have(app: web.Application, dataset: str) -> bool:
    """Fetch the dataset unless it is held; returns whether it was."""
    cache = app[_CACHE]
    if cache.touch(dataset):
        return True
    size_bytes = sample.dataset_bytes(dataset)
    await _pause(app, size_bytes / app[_BANDWIDTH])
    cache.put(dataset, size_bytes)
    return False


async def _bytes(request: web.Request) -> web.StreamResponse:
    length = _number(request.match_info["length"], sample.MAX_BYTES)
    response = web.StreamResponse()
    response.content_type = "application/octet-stream"
    response.content_length = length
    await response.prepare(request)
    if request.method != "HEAD":
        for chunk in sample.chunks(length):
            await response.write(chunk)
    await response.write_eof()
    return response


async def _upload(request: web.Request) -> web.Response:
    sha256 = hashlib.sha256()
    length = 0
    async for chunk in request.content.iter_chunked(_UPLOAD_CHUNK_BYTES):
        sha256.update(chunk)
        length += len(chunk)
    return _json({"bytes": length, "sha256": sha256.hexdigest()})


async def _slow(request: web.Request) -> web.Response:
    milliseconds = _milliseconds(request.match_info["ms"])
    await _pause(request.app, milliseconds / 1000)
    return _json({"service": request.app[_NAME], "slept_ms": milliseconds})


def _milliseconds(text: str) -> int:
    return _number(text, _MAX_THINK_MS)


async def _pause(app: web.Application, seconds: float) -> None:
    if seconds:
        await app[_CLOCK].sleep(seconds)


def _number(text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise _bad_request(f"expected a number from 0 to {limit}, got {text[:40]!r}")
    return int(text)


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _bad_request(problem: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=orjson.dumps({"error": problem}).decode(), content_type="application/json")


async def serve(name: str, host: str, port: int, resources: Resources) -> None:
    """Serve until a signal says stop; print the address once it listens. Raises `OSError` if it cannot."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    clock = SystemClock()
    runner = web.AppRunner(make_app(name, clock, resources), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        line = {"service": name, "host": bound_host, "port": bound_port}
        print(orjson.dumps(line).decode(), flush=True)
        await stopped.wait()
    finally:
        await _finish(runner, clock)


async def _finish(runner: web.AppRunner, clock: Clock) -> None:
    """Wait for requests under way and until what they wrote is sent, five seconds at most for each.

    The cleanup of aiohttp waits for handlers alone; the loop's end would cut what is left in write buffers.
    """
    connections = runner.server.connections if runner.server else []
    transports = [connection.transport for connection in connections if connection.transport]
    await runner.cleanup()
    until = clock.monotonic() + _SHUTDOWN_S
    while clock.monotonic() < until and any(transport.get_write_buffer_size() for transport in transports):
        await clock.sleep(_POLL_S)


def main() -> int:
    """Command line of the service; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m proxy.demo.service",
        description="A sample data service.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--name", default="data-1", help="what the service calls itself")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes any free one")
    usual = Resources()
    parser.add_argument("--slots", type=int, default=usual.slots, help="queries at once")
    parser.add_argument("--cache", type=int, default=usual.cache_bytes, help="data that it holds, bytes")
    parser.add_argument(
        "--bandwidth", type=float, default=usual.bandwidth_bytes_per_s, help="to get other data, bytes/s"
    )
    options = parser.parse_args()
    if options.slots < 1 or options.cache < 0 or options.bandwidth <= 0:
        parser.error("expected --slots of at least 1, --cache of at least 0 and --bandwidth above 0")
    resources = Resources(options.slots, options.cache, options.bandwidth)
    ask_for_death_signal()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options.name, options.host, options.port, resources))
    except (OSError, OverflowError) as error:
        print(f"{options.name}: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
