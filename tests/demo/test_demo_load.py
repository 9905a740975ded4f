"""The load against a service without a proxy: everything is right; and against ones that answer wrongly."""

import asyncio
from random import Random

import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.demo.load import Load
from proxy.demo.service import Resources, make_app
from proxy.demo.stats import LoadStats
from proxy.tasks import spawn

LIMIT_S = 30


async def drive(app, requests):
    """Run the load against `app` until `requests` have ended, with two clients and then ten; returns the summary."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        stats = LoadStats(now=0.0)
        load = Load(f"http://{host}:{port}", stats, SystemClock(), Random(1))
        running = spawn(load.run(), name="load")
        async with asyncio.timeout(LIMIT_S):
            for clients, until in ((2, requests // 2), (10, requests)):
                load.set_clients(clients)
                while stats.summary(now=1.0).requests < until:
                    await asyncio.sleep(0.01)
            load.stop()
            await running
        return stats.summary(now=1.0)
    finally:
        await runner.cleanup()


def test_right_answers_are_counted_with_hits_and_misses():
    app = make_app("data-1", SystemClock(), Resources(cache_bytes=1 << 40, bandwidth_bytes_per_s=1e12))
    summary = asyncio.run(drive(app, 200))
    assert summary.is_ok, summary.problems
    # Everything is fetched once, or twice where two ask for it at the same time.
    assert 0.5 < summary.hit_ratio < 1


async def _refuse(request):
    return web.Response(status=503, text="no endpoint is available")


async def _wrong_json(request):
    return web.json_response(["something", "else"])


async def _no_json(request):
    return web.Response(text="<html>")


async def _cut(request):
    response = web.StreamResponse()
    response.content_length = 65_536
    await response.prepare(request)
    await response.write(b"x" * 1000)
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (_refuse, "503 no endpoint is available"),
        (_wrong_json, "the answer is to another question"),
        (_no_json, "unexpected character"),
        (_cut, ""),
    ],
)
def test_wrong_answers_are_failures(handler, problem):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    summary = asyncio.run(drive(app, 30))
    assert summary.failed == summary.requests > 0
    assert any(text.startswith(problem) for text, _ in summary.problems), summary.problems
