"""Children: what they said is kept for people, and none is left."""

import asyncio
import os
import sys

import pytest

from proxy.demo.processes import ChildFailed, start_child

LIMIT_S = 30


def run(code, then):
    """Start Python with `code`, await `then(child)` with a limit, and leave nothing behind."""

    async def main():
        async with asyncio.timeout(LIMIT_S):
            child = await start_child("sample", [sys.executable, "-c", code], read_stdout=True)
            try:
                return await then(child)
            finally:
                await child.stop(0)

    return asyncio.run(main())


def test_a_child_that_ends_is_explained_by_its_last_lines():
    async def explain(child):
        assert await child.wait() == 3
        return child.ended_failure()

    code = "import sys; [print('line', n, file=sys.stderr) for n in range(100)]; sys.exit(3)"
    lines = str(run(code, explain)).splitlines()
    assert lines[0] == "sample ended with exit code 3; the end of its output:"
    assert lines[1:] == [f"    line {number}" for number in range(85, 100)]


def test_a_child_that_said_nothing_is_explained_by_its_signal():
    async def explain(child):
        child.kill()
        await child.wait()
        return child.ended_failure()

    assert str(run("import signal; signal.pause()", explain)) == "sample was ended by SIGKILL"


def test_a_program_that_does_not_exist_is_a_failure():
    with pytest.raises(ChildFailed, match="sample could not be started: .*No such file"):
        asyncio.run(start_child("sample", ["/nonexistent/program"]))


def test_stop_ends_a_child_that_ignores_sigterm():
    async def stop(child):
        assert await child.stdout.readline() == b"ready\n"
        await child.stop(0.01)
        return child.has_ended, repr(child)

    code = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    ended, text = run(code, stop)
    assert ended
    assert text.endswith("returncode=-9>")


def test_stop_is_harmless_after_the_end():
    async def stop(child):
        await child.wait()
        await child.stop(LIMIT_S)
        child.kill()
        return child.has_ended

    assert run("pass", stop)


def test_a_child_has_a_session_of_its_own():
    async def session(child):
        return int(await child.stdout.readline())

    assert run("import os; print(os.getsid(0))", session) != os.getsid(0)
