"""The load against a service without a proxy: everything is right; and against ones that answer wrongly."""

import asyncio

import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.demo.load import CLIENTS, KINDS, Load
from proxy.demo.service import make_app
from proxy.demo.stats import LoadStats
from proxy.tasks import spawn

LIMIT_S = 30


async def drive(app, requests):
    """Run the load against `app` until `requests` have ended; returns the summary."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        stats = LoadStats(KINDS, ["data-1"], CLIENTS, now=0.0)
        load = Load(f"http://{host}:{port}", stats, SystemClock())
        running = spawn(load.run(), name="load")
        async with asyncio.timeout(LIMIT_S):
            while stats.summary(now=1.0).requests < requests:
                await asyncio.sleep(0.01)
            load.stop()
            await running
        return stats.summary(now=1.0)
    finally:
        await runner.cleanup()


def test_right_answers_are_counted_by_kind_and_endpoint():
    summary = asyncio.run(drive(make_app("data-1", SystemClock()), 100))
    assert summary.is_ok, summary.problems
    assert all(kind.requests > 0 and kind.verified_bytes > 0 for kind in summary.kinds)
    assert summary.endpoints == {"data-1": summary.requests}


async def _wrong_bytes(request):
    return web.Response(body=bytes(65_536))


async def _refuse(request):
    return web.Response(status=503, text="no endpoint is available")


async def _wrong_json(request):
    await request.read()
    return web.json_response(["something", "else"])


async def _no_json(request):
    await request.read()
    return web.Response(text="<html>")


async def _cut(request):
    response = web.StreamResponse()
    response.content_length = 65_536
    await response.prepare(request)
    await response.write(b"x" * 1000)
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("handler", "kind", "problem"),
    [
        (_wrong_bytes, "download", "download: wrong checksum over 65536 bytes"),
        (_refuse, "query", "query: 503 no endpoint is available"),
        (_wrong_json, "query", "query: the answer is to another question"),
        (_wrong_json, "upload", "upload: the endpoint received other bytes than were sent"),
        (_no_json, "query", "query: unexpected character"),
        (_cut, "download", "download: "),
    ],
)
def test_wrong_answers_are_failures(handler, kind, problem):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    summary = asyncio.run(drive(app, 30))
    assert (summary.failed, summary.verified_bytes) == (summary.requests, 0)
    assert next(k.failed for k in summary.kinds if k.kind == kind) > 0
    assert any(text.startswith(problem) for text, _ in summary.problems), summary.problems
