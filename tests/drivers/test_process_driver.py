"""Instances as real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import until

from proxy.clock import SystemClock
from proxy.drivers.driver import Changed, Died, Listed, Order, Removed, State, Stopping
from proxy.drivers.process import ProcessDriver
from proxy.drivers.spec import ProcessSpec
from proxy.errors import EngineConflict, EngineNotFound, EngineRefused

LIMIT_S = 60.0
# Prints its environment, then answers every request.
SERVER = """
import http.server, os, sys
print(sorted(os.environ.items()), file=sys.stderr)
print("port", sys.argv[1], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
PAUSE = "import signal; print('up', flush=True); signal.pause()"


def python(code, *arguments, **more):
    return ProcessSpec((sys.executable, "-S", "-c", code, *arguments), **more)


def order(spec, name="etl-1"):
    return Order("etl", name, spec)


def run(test, inherited=None):
    """Run `test(driver, events)` with a limit, and end all processes."""

    async def main():
        driver = ProcessDriver(
            owner="us", clock=SystemClock(), inherited=os.environ if inherited is None else inherited
        )
        events = []

        async def collect():
            async for one in driver.watch():
                events.append(one)

        watcher = asyncio.create_task(collect())
        try:
            async with asyncio.timeout(LIMIT_S):
                await until(lambda: events)
                await test(driver, events)
        finally:
            await driver.close()
            watcher.cancel()
            await asyncio.wait([watcher])

    asyncio.run(main())


async def says(driver, instance, text):
    """Wait until it has printed `text`."""
    async with asyncio.timeout(LIMIT_S):
        while text not in await driver.log_tail(instance.id):
            await asyncio.sleep(0.005)


def pid_of(instance):
    return int(instance.id.rpartition("-")[2])


def is_alive(pid):
    """Whether process `pid` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_serves_at_its_port_and_ends():
    async def test(driver, events):
        instance = await driver.start(order(python(SERVER, "{port}", environment=(("A", "b"),))))
        (address,) = instance.addresses
        await says(driver, instance, f"port {address.port}")

        def get():
            with urllib.request.urlopen(f"http://{address}/") as reply:
                return reply.status

        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    assert await asyncio.to_thread(get) == 200
                    break
                except OSError:
                    await asyncio.sleep(0.01)
        told = await driver.log_tail(instance.id)
        for variable in (f"('PORT', '{address.port}')", "('A', 'b')", "('SERVICE_NAME', 'etl')"):
            assert variable in told
        assert "('CLUSTER_ID', 'us/etl')" in told and "('DATA_PROCESSING_MODE', 'distributed')" in told
        assert "DEPLOYMENT_TIME" in told and "SECRET" not in told
        assert (instance.state, instance.owner, instance.cluster) == (State.RUNNING, "us", "etl")
        await driver.stop(instance.id)
        (ended,) = await driver.list()
        assert (ended.state, ended.exit_code, ended.addresses) == (State.ENDED, -signal.SIGTERM, ())
        await driver.remove(instance.id)
        assert await driver.list() == ()
        await until(lambda: len(events) == 6)
        assert events == [
            Listed(()),
            Changed(instance),
            Stopping(instance.id, 15, 10.0),
            Died(instance.id),
            Changed(ended),
            Removed(instance.id),
        ]

    run(test, {"PATH": os.environ["PATH"], "SECRET": "x"})


def test_one_that_does_not_end_is_killed_after_its_grace():
    async def test(driver, events):
        stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
        instance = await driver.start(order(python(stubborn)))
        await says(driver, instance, "up")
        await driver.stop(instance.id, grace_s=0.05)
        (ended,) = await driver.list()
        assert ended.exit_code == -signal.SIGKILL
        await driver.stop(instance.id)
        assert sum(isinstance(each, Stopping) for each in events) <= 1

    run(test)


def test_the_stop_signal_is_the_spec_s():
    async def test(driver, events):
        graceful = "import signal, sys; signal.signal(2, lambda *_: sys.exit(7))"
        graceful += "; print('up', flush=True); signal.pause()"
        instance = await driver.start(order(python(graceful, stop_signal="SIGINT")))
        await says(driver, instance, "up")
        await driver.stop(instance.id)
        assert (await driver.list())[0].exit_code == 7

    run(test)


def test_one_that_dies_by_itself_is_told_and_leaves_its_last_words():
    async def test(driver, events):
        instance = await driver.start(order(python("print('no data', flush=True); raise SystemExit(3)")))
        await until(lambda: len(events) == 4)
        assert events[2] == Died(instance.id)
        assert events[3].instance.exit_code == 3
        assert await driver.log_tail(instance.id) == "no data"
        await driver.remove(instance.id)
        with pytest.raises(EngineNotFound, match="no such process"):
            await driver.log_tail(instance.id)
        await driver.remove(instance.id)
        await driver.stop(instance.id)

    run(test)


def test_what_it_has_started_ends_with_it():
    child = f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {PAUSE!r}])"
    code = f"{child}; print('child', p.pid, flush=True); p.wait()"

    async def test(driver, events):
        instance = await driver.start(order(python(code)))
        await says(driver, instance, "child")
        words = (await driver.log_tail(instance.id)).split()
        pid = int(words[words.index("child") + 1])
        os.kill(pid_of(instance), signal.SIGKILL)
        await until(lambda: not is_alive(pid))
        await until(lambda: any(isinstance(each, Died) for each in events))

    run(test)


def test_a_log_is_kept_to_its_end():
    code = "[print(f'line {n}', 'x' * 60) for n in range(5000)]"

    async def test(driver, events):
        instance = await driver.start(order(python(code)))
        await until(lambda: any(isinstance(each, Died) for each in events))
        lines = (await driver.log_tail(instance.id, 3)).splitlines()
        assert [line.split()[1] for line in lines] == ["4997", "4998", "4999"]
        assert len(await driver.log_tail(instance.id, 5000)) <= 64 * 1024

    run(test)


def test_memory_is_limited():
    code = "data = bytearray(1 << 30); print('got it')"

    async def test(driver, events):
        instance = await driver.start(order(python(code, memory_bytes=256 << 20)))
        await until(lambda: any(isinstance(each, Died) for each in events))
        assert "MemoryError" in await driver.log_tail(instance.id)

    run(test)


def test_usage_is_of_the_whole_session():
    child = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {PAUSE!r}])"
    code = f"{child}; data = b'x' * (64 << 20); print('ready', flush=True)\nwhile True: pass"

    async def test(driver, events):
        instance = await driver.start(order(python(code, memory_bytes=1 << 30)))
        await says(driver, instance, "ready")
        first = (await driver.stats([instance]))[instance.id]
        assert first.cpus is None and first.pids == 2
        assert first.memory_bytes > 64 << 20 and first.memory_percent > 6
        async with asyncio.timeout(LIMIT_S):
            while not (usage := (await driver.stats([instance]))[instance.id]).cpus:
                await asyncio.sleep(0.02)
        assert usage.cpu_percent > 0
        await driver.stop(instance.id, grace_s=0.01)
        assert await driver.stats([instance]) == {}

    run(test)


def test_what_cannot_be_executed_says_why():
    async def test(driver, events):
        with pytest.raises(EngineRefused, match="start etl-1: /nonexistent cannot be executed: no such file"):
            await driver.start(order(ProcessSpec(("/nonexistent",))))
        instance = await driver.start(order(python(PAUSE)))
        with pytest.raises(EngineConflict, match="the name is in use"):
            await driver.start(order(python(PAUSE)))
        other = await driver.start(order(python(PAUSE), "etl-2"))
        assert other.addresses != instance.addresses and other.spec_digest == instance.spec_digest
        await driver.remove(instance.id)
        await driver.start(order(replace(python(PAUSE), working_directory="/")))
        assert len(await driver.list()) == 2 and "2 processes" in repr(driver)

    run(test)


def test_none_outlives_the_one_that_started_it(tmp_path):
    """Not even when that is killed and can do nothing about it."""
    code = """
    import asyncio, sys
    from proxy.clock import SystemClock
    from proxy.drivers.driver import Order
    from proxy.drivers.process import ProcessDriver
    from proxy.drivers.spec import ProcessSpec

    async def main():
        driver = ProcessDriver(owner="us", clock=SystemClock())
        command = (sys.executable, "-S", "-c", "import signal; signal.pause()")
        print((await driver.start(Order("etl", "etl-1", ProcessSpec(command)))).id, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        pid = int(parent.stdout.readline().rpartition("-")[2])
        assert is_alive(pid)
        parent.kill()

    async def gone():
        await until(lambda: not is_alive(pid))

    asyncio.run(gone())
