"""A sample data service: an endpoint for the demo, for tests and for trying Homeport by hand.

    python -m proxy.demo.service --port 0 --name data-1

prints `{"service": "data-1", "host": "127.0.0.1", "port": 40123}` once it listens, and answers

    GET  /health                             who answers
    GET  /query?dataset=NAME[&think_ms=MS]   a small JSON result of NAME alone, after MS milliseconds
    GET  /bytes/N                            N deterministic bytes, streamed; N up to 1 GiB
    POST /upload, PUT /upload                reads the body; its length and SHA-256
    GET  /slow/MS                            an answer after MS milliseconds, up to ten minutes

HEAD works wherever GET does. Every answer names its service in `X-Service`. SIGTERM and SIGINT finish what is
under way and stop; so does the death of the parent, so that no test or demo leaves one behind.
"""

import argparse
import asyncio
import hashlib
import signal
import sys

import orjson
import uvloop
from aiohttp import web

from proxy.children import ask_for_death_signal
from proxy.clock import Clock, SystemClock
from proxy.demo import sample

SERVICE_HEADER = "X-Service"
_MAX_THINK_MS = 600_000
_MAX_DATASET_CHARS = 128
_UPLOAD_CHUNK_BYTES = 1 << 16
# Long enough for the demo's own requests; a service is not worth waiting longer for.
_SHUTDOWN_S = 5.0
_POLL_S = 0.01

_NAME = web.AppKey("name", str)
_CLOCK = web.AppKey("clock", Clock)


def make_app(name: str, clock: Clock) -> web.Application:
    """The service called `name`, ready to be served."""
    app = web.Application()
    app[_NAME] = name
    app[_CLOCK] = clock
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
    return _json({"service": request.app[_NAME], "status": "ok"})


async def _query(request: web.Request) -> web.Response:
    dataset = request.query.get("dataset", "")
    if not 1 <= len(dataset) <= _MAX_DATASET_CHARS:
        raise _bad_request(f"dataset: expected 1 to {_MAX_DATASET_CHARS} characters, got {len(dataset)}")
    await _think(request, request.query.get("think_ms", "0"))
    service: str = request.app[_NAME]
    return _json({"service": service, "dataset": dataset, "result": sample.query_result(dataset)})


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
    await _think(request, request.match_info["ms"])
    return _json({"service": request.app[_NAME], "slept_ms": int(request.match_info["ms"])})


async def _think(request: web.Request, ms: str) -> None:
    milliseconds = _number(ms, _MAX_THINK_MS)
    if milliseconds:
        await request.app[_CLOCK].sleep(milliseconds / 1000)


def _number(text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise _bad_request(f"expected a number from 0 to {limit}, got {text[:40]!r}")
    return int(text)


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _bad_request(problem: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=orjson.dumps({"error": problem}).decode(), content_type="application/json")


async def serve(name: str, host: str, port: int) -> None:
    """Serve until a signal says stop; print the address once it listens. Raises `OSError` if it cannot."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    clock = SystemClock()
    runner = web.AppRunner(make_app(name, clock), access_log=None, shutdown_timeout=_SHUTDOWN_S)
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
    options = parser.parse_args()
    ask_for_death_signal()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options.name, options.host, options.port))
    except (OSError, OverflowError) as error:
        print(f"{options.name}: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
