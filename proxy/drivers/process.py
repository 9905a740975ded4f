"""Instances as local processes on loopback: no engine, no isolation, for one machine.

Each is the leader of a session and a process group of its own, so Ctrl-C in Homeport's terminal does not reach it and
a stop reaches all that it started. The kernel sends it SIGTERM when Homeport's control process dies, however that
happens: nobody else would ever find it, so none is taken over after a restart. What it prints is read and its end
kept, so it neither blocks on a pipe nor fills a disk."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import BinaryIO

from proxy.children import ask_for_death_signal
from proxy.clock import Clock
from proxy.drivers.create_body import environment
from proxy.drivers.driver import (
    Changed,
    Died,
    Instance,
    InstanceEvent,
    Listed,
    Order,
    Removed,
    State,
    Stopping,
    Usage,
)
from proxy.drivers.engine_answers import signal_number
from proxy.drivers.process_usage import read_usage
from proxy.drivers.spec import ProcessSpec
from proxy.drivers.usage import CpuMeter
from proxy.errors import EngineConflict, EngineNotFound, EngineRefused
from proxy.model import TcpAddress
from proxy.tasks import spawn

HOST = "127.0.0.1"
# What a program needs to be found and to speak; the rest of our environment may hold secrets.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_MAX_LOG_BYTES = 64 * 1024
_LAST_WORDS_S = 1.0


class ProcessDriver:
    """The processes of our clusters. See `driver.Driver`; `close` ends them."""

    def __init__(self, *, owner: str, clock: Clock, inherited: Mapping[str, str] = os.environ) -> None:
        self._owner = owner
        self._clock = clock
        self._inherited = {name: inherited[name] for name in _PASSED_ON if name in inherited}
        self._processes: dict[str, _Process] = {}
        self._names: set[str] = set()
        self._ports: set[int] = set()
        self._watchers: list[asyncio.Queue[InstanceEvent]] = []
        self._meter = CpuMeter()
        self._number = 0

    def __repr__(self) -> str:
        return f"<ProcessDriver of {self._owner}: {len(self._processes)} processes>"

    async def start(self, order: Order) -> Instance:
        """Start a process with a free port of loopback."""
        spec = order.spec
        assert isinstance(spec, ProcessSpec)
        what = f"start {order.name}"
        if order.name in self._names:
            raise EngineConflict(what, "the name is in use")
        self._names.add(order.name)
        self._number += 1
        port = self._free_port()
        try:
            process, output = await _spawn(spec, port, self._environment(order, spec, port))
        except (OSError, ValueError) as error:
            self._names.discard(order.name)
            self._ports.discard(port)
            raise EngineRefused(what, f"{spec.command[0]} cannot be executed: {_words(error)}") from error
        instance = Instance(
            id=f"process-{self._number}-{process.pid}",
            name=order.name,
            cluster=order.cluster,
            state=State.RUNNING,
            addresses=(TcpAddress(HOST, port),),
            owner=self._owner,
            spec_digest=spec.digest(),
            started_at=self._clock.wall(),
            stop_signal=signal_number(spec.stop_signal),
            stop_grace_s=spec.stop_grace_s,
            memory_bytes=spec.memory_bytes,
        )
        self._processes[instance.id] = _Process(instance, process, output, self._tell)
        self._tell(Changed(instance))
        return instance

    async def stop(self, instance_id: str, *, grace_s: float | None = None) -> None:
        """Stop signal, grace, SIGKILL, to the whole process group."""
        process = self._processes.get(instance_id)
        if process is None or process.has_ended:
            return
        own = process.instance
        grace = own.stop_grace_s if grace_s is None else grace_s
        self._tell(Stopping(own.id, own.stop_signal, grace))
        await process.stop(grace)

    async def remove(self, instance_id: str) -> None:
        """Kill a process that runs, and forget it and what it said."""
        process = self._processes.get(instance_id)
        if process is None:
            return
        await process.stop(0.0)
        if self._processes.pop(instance_id, None) is not None:
            process.forget()
            self._names.discard(process.instance.name)
            self._ports.discard(process.port)
            self._tell(Removed(instance_id))

    async def list(self) -> tuple[Instance, ...]:
        """All that were not removed."""
        return self._instances()

    async def watch(self) -> AsyncIterator[InstanceEvent]:
        """What happens to processes. Nothing is ever lost here."""
        events: asyncio.Queue[InstanceEvent] = asyncio.Queue()
        events.put_nowait(Listed(self._instances()))
        self._watchers.append(events)
        try:
            while True:
                yield await events.get()
        finally:
            self._watchers.remove(events)

    async def stats(self, instances: Iterable[Instance]) -> Mapping[str, Usage]:
        """From /proc, over all processes of each one's session."""
        running = {each.id: self._processes[each.id] for each in instances if each.id in self._processes}
        pids = {process.pid: key for key, process in running.items() if not process.has_ended}
        self._meter.keep(pids.values())
        found = await asyncio.to_thread(read_usage, frozenset(pids))
        now = self._clock.monotonic()
        cores = max(1, len(os.sched_getaffinity(0)))
        usages = {}
        for pid, (cpu_s, memory_bytes, threads) in found.items():
            limit = running[pids[pid]].instance.memory_bytes
            used = self._meter.add(pids[pid], cpu_s, now)
            usages[pids[pid]] = Usage(
                memory_bytes=memory_bytes,
                memory_percent=100.0 * memory_bytes / (limit or _host_memory()),
                cpus=used,
                cpu_percent=None if used is None else 100.0 * used / cores,
                pids=threads,
            )
        return usages

    async def log_tail(self, instance_id: str, lines: int = 50) -> str:
        """Standard output and standard error, as they came."""
        process = self._processes.get(instance_id)
        if process is None:
            raise EngineNotFound(f"log of {instance_id}", "no such process")
        return "\n".join(process.output().decode(errors="replace").strip().splitlines()[-lines:])

    async def close(self) -> None:
        """End all processes, each with its own grace, at once."""
        await asyncio.gather(*(self.stop(key) for key in self._processes))
        for key in tuple(self._processes):
            await self.remove(key)

    def _instances(self) -> tuple[Instance, ...]:
        return tuple(process.instance for process in self._processes.values())

    def _tell(self, event: InstanceEvent) -> None:
        for events in self._watchers:
            events.put_nowait(event)

    def _free_port(self) -> int:
        """A port that nobody listens at now and that was given to no other process. Another program may take it before
        the process does; then that ends, as one that cannot start."""
        while True:
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port = int(probe.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port

    def _environment(self, order: Order, spec: ProcessSpec, port: int) -> dict[str, str]:
        started = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")
        own = (("PORT", str(port)), *spec.environment)
        told = environment(own, spec.processing_mode, order.cluster, self._owner, started)
        return self._inherited | dict(variable.split("=", 1) for variable in told)


class _Process:
    """One process, watched until its end."""

    def __init__(
        self,
        instance: Instance,
        process: asyncio.subprocess.Process,
        output: BinaryIO,
        tell: Callable[[InstanceEvent], None],
    ) -> None:
        self.instance = instance
        self.port = instance.addresses[0].port
        self._process = process
        self._tell = tell
        self._output = bytearray()
        self._ended = asyncio.Event()
        self._reader = spawn(self._read(output), name=f"output of {instance.name}")
        spawn(self._wait(), name=f"end of {instance.name}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def output(self) -> bytes:
        """The end of what it printed."""
        return bytes(self._output)

    async def stop(self, grace_s: float) -> None:
        """End it and wait for that."""
        if not self.has_ended:
            self._signal(self.instance.stop_signal if grace_s > 0 else signal.SIGKILL)
            try:
                async with asyncio.timeout(grace_s or None):
                    await self._ended.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._ended.wait()

    def forget(self) -> None:
        """Read nothing more from it."""
        self._reader.cancel()

    def _signal(self, number: int) -> None:
        # The group exists for as long as its leader is not reaped, which `_wait` alone does.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _read(self, output: BinaryIO) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), output)
        try:
            while chunk := await reader.read(65536):
                self._output += chunk
                del self._output[:-_MAX_LOG_BYTES]
        finally:
            transport.close()

    async def _wait(self) -> None:
        code = await self._process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it has left behind
        self._tell(Died(self.instance.id))
        # Its last words; who has escaped from the group may keep the pipe open.
        await asyncio.wait([self._reader], timeout=_LAST_WORDS_S)
        self.instance = replace(self.instance, state=State.ENDED, addresses=(), exit_code=code)
        self._ended.set()
        self._tell(Changed(self.instance))


async def _spawn(
    spec: ProcessSpec, port: int, variables: dict[str, str]
) -> tuple[asyncio.subprocess.Process, BinaryIO]:
    """Start the command; returns it with the pipe that it prints to. Raises `OSError` or `ValueError`.

    The pipe is not asyncio's own, whose `wait` does not return before all that have it open are gone (Python 3.11).
    """
    parent = os.getpid()

    def prepare() -> None:
        ask_for_death_signal()
        if os.getppid() != parent:  # it died before the call above could take effect
            os._exit(1)
        if spec.memory_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_bytes, spec.memory_bytes))

    readable, writable = os.pipe()
    output = os.fdopen(readable, "rb", buffering=0)
    try:
        process = await asyncio.create_subprocess_exec(
            *(word.replace("{port}", str(port)) for word in spec.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writable,
            stderr=asyncio.subprocess.STDOUT,
            cwd=spec.working_directory or None,
            env=variables,
            start_new_session=True,
            preexec_fn=prepare,
        )
    except BaseException:
        output.close()
        raise
    finally:
        os.close(writable)
    return process, output


def _words(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
