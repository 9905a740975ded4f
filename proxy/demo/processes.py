"""Child processes that never outlive the demo, whichever way it ends.

The kernel sends a child SIGTERM when its parent dies (`PR_SET_PDEATHSIG`, prctl(2)), which also covers a
parent killed with SIGKILL; a pipe on stdin would need every child to read it. Children get a session of their
own, because Ctrl-C in a terminal signals the whole foreground group and would stop the proxy in the middle of
the load. What a child says goes to an unnamed file, so that it never blocks on a full pipe and leaves nothing
behind.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from textwrap import indent
from typing import BinaryIO

from proxy.children import ask_for_death_signal
from proxy.errors import ProxyError

_TAIL_LINES = 15
_TAIL_BYTES = 8192


class ChildFailed(ProxyError):
    """A child did not start or ended by itself; `tail` is the end of what it said."""

    def __init__(self, name: str, problem: str, tail: str) -> None:
        super().__init__(name, problem, tail)
        self.name = name
        self.problem = problem
        self.tail = tail

    def __str__(self) -> str:
        text = f"{self.name} {self.problem}"
        if not self.tail:
            return text
        return f"{text}; the end of its output:\n{indent(self.tail, '    ')}"


class Child:
    """A running child process. Make it with `start_child`; end it with `stop`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, output: BinaryIO) -> None:
        self.name = name
        self._process = process
        self._output = output

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self._process.pid} returncode={self._process.returncode}>"

    @property
    def has_ended(self) -> bool:
        """The child has been reaped."""
        return self._process.returncode is not None

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What the child prints, when it was started with `read_stdout`."""
        return self._process.stdout

    async def wait(self) -> int:
        """Wait for the end; returns the exit status, −N for signal N."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End the child: SIGTERM, SIGKILL after `grace_s` seconds. Harmless when it has ended."""
        try:
            if not self.has_ended:
                self._process.terminate()
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            self._output.close()

    def kill(self) -> None:
        """SIGKILL now, without waiting. Harmless when the child has ended."""
        if not self.has_ended:
            self._process.kill()

    def failure(self, problem: str) -> ChildFailed:
        """The error that says `problem` about this child, with the end of its output."""
        size = os.fstat(self._output.fileno()).st_size
        raw = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = raw.decode(errors="replace").strip().splitlines()
        return ChildFailed(self.name, problem, "\n".join(lines[-_TAIL_LINES:]))

    def ended_failure(self) -> ChildFailed:
        """The error that says how the child ended; call it only after the end."""
        status = self._process.returncode
        assert status is not None
        if status < 0:
            return self.failure(f"was ended by {signal.Signals(-status).name}")
        return self.failure(f"ended with exit code {status}")


async def start_child(name: str, command: Sequence[str], *, read_stdout: bool = False) -> Child:
    """Start `command`; its stderr, and its stdout unless `read_stdout`, are kept for `failure`.

    Raises `ChildFailed` when the program cannot be executed.
    """
    parent = os.getpid()

    def bind_to_parent() -> None:
        ask_for_death_signal()
        if os.getppid() != parent:  # the parent died before the call above could take effect
            os._exit(1)

    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by Child.stop
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if read_stdout else output,
            stderr=output,
            start_new_session=True,
            preexec_fn=bind_to_parent,
        )
    except OSError as error:
        output.close()
        raise ChildFailed(name, f"could not be started: {error}", "") from error
    return Child(name, process, output)
