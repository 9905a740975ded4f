"""The access log: one JSON object a line, formatted and written in batches by one thread.

The request path pays for a tuple and a list append, nothing else: `add` never formats, waits or raises. The
worker's tick hands the collected batch to the writer thread, which formats it in chunks of `CHUNK_RECORDS`
and writes each with one system call. A logging handler with a queue was not taken: it makes a `LogRecord` and
takes a lock per line.

Rules:

- Nothing grows without limit. At most `limit` records wait in the worker and `MAX_BATCHES` batches at the
  thread; a record beyond that is dropped and counted.
- A sink that fails (disk full, reader gone, no permission) costs the lines of that batch: they are counted,
  the first failure is logged, and the next batch tries again from opening the file.
- Several workers write to one sink. Each write is one that the kernel does not mix with others': to a file it
  appends a chunk; to a pipe it is at most `ATOMIC_BYTES`, and a line that is longer has its texts cut.
- A line is always one line. Values that came from outside are written as ASCII: JSON escapes control
  characters, and each byte above 0x7f appears as `\\xNN`, because as latin-1 0x85 would be a line break and
  0x9b a terminal command to whoever reads the log with a Unicode-aware tool.

Standard library and orjson only: workers import this.
"""

import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from queue import SimpleQueue

import orjson

from proxy.errors import Reason
from proxy.model import Outcome

_log = logging.getLogger(__name__)

# One exchange, made as a plain tuple in this order: a NamedTuple would cost 600 ns instead of 120.
AccessRecord = tuple[
    float,  # time: wall clock at the end of the exchange, seconds since the epoch
    bytes | str,  # request_id
    bytes | str,  # client: address, without the port
    str,  # listener: its name
    bytes,  # method, as received
    bytes | None,  # host: the Host field or the target's authority, as received; None = there was none
    bytes,  # target: the request target, as received
    bytes | str,  # protocol: "1.1" or "1.0", as "HTTP/" shows it; empty = not known
    int,  # status sent to the client; 0 = none was sent
    Reason | None,  # reason why Homeport answered or cut the exchange; None = it did not
    Outcome,  # outcome
    str | None,  # route: its name
    str | None,  # cluster: its name
    str | None,  # endpoint: id of the last one tried
    int,  # attempts: connections that the request was sent on, ≥ 0
    int,  # bytes_in: of the request's body, without its framing; of a refused head all that was read
    int,  # bytes_out: sent to the client, the answer's head included
    float | None,  # connect_s: seconds from the request's head to a connection; None = not reached
    float | None,  # first_byte_s: seconds from the request's head to the answer's first byte, likewise
    float,  # total_s: seconds from the request's head to the end
    float | None,  # queue_s: seconds waited for a free endpoint; None = did not wait
    bytes | None,  # data_key: the data that the request is about; None = unknown
    int | None,  # data_bytes: size of that data; None = unknown
    bytes | None,  # user_agent, as received
    bytes | None,  # forwarded_for: X-Forwarded-For, as received
    str
    | None,  # not_retried: why a request that failed went to no other endpoint; None = it did, or has not failed
    str | None,  # why: why this endpoint (policy.outlook.Why); None = its turn, or there was none
    bool | None,  # data_hit: it held the data, as far as can be told; None = not known
    float
    | None,  # predicted_wait_s: seconds until it has time for the request; None = data do not count there
    float | None,  # predicted_transfer_s: seconds until it has the data, likewise
    float | None,  # predicted_service_s: seconds of work, likewise
    float | None,  # predicted_eviction_s: seconds that others lose whose data must leave, likewise
    float | None,  # predicted_success: odds of a good answer, 0–1, likewise
    float | None,  # predicted_penalty_s: seconds for its zone, tags that it lacks, recent failures, likewise
    float | None,  # predicted_score_s: seconds that it counted for in all, likewise
]

FIELDS = (
    "time", "request_id", "client", "listener", "method", "host", "target", "protocol", "status",
    "reason", "outcome", "route", "cluster", "endpoint", "attempts", "bytes_in", "bytes_out", "connect_s",
    "first_byte_s", "total_s", "queue_s", "data_key", "data_bytes", "user_agent", "forwarded_for", "not_retried",
    "why", "data_hit", "predicted_wait_s", "predicted_transfer_s", "predicted_service_s",
    "predicted_eviction_s", "predicted_success", "predicted_penalty_s", "predicted_score_s",
)  # fmt: skip
"""The keys of a line, in the order of `AccessRecord`."""

MAX_TEXT_BYTES = 2048
"""Bytes of a value from outside that are logged; a longer one ends in `...`. Enough for any target a person
reads."""

CHUNK_RECORDS = 64
"""Records formatted before a write. About 0.4 ms: the write releases the interpreter lock, so this is how
long the event loop may wait for it, instead of the interpreter's 5 ms switch interval."""

ATOMIC_BYTES = select.PIPE_BUF
"""Bytes that a pipe takes as a whole, whoever else writes to it (pipe(7)): 4096 on Linux. A stream socket, which is
what systemd gives a service, takes them as a whole too, though nobody promises it."""

MAX_BATCHES = 8
"""Batches that may wait for the writer thread."""

STALL_S = 5.0
"""Seconds that a sink which does not block (a pipe shared with a non-blocking writer) may refuse bytes."""


class AccessLog:
    """The access log of one process.

    `sink` is `off`, `stdout`, or the path of a file, opened by the writer thread (appending, made with mode
    0640). `limit` is the number of records kept between two flushes, ≥ 1.
    """

    def __init__(self, sink: str, *, limit: int = 16_384) -> None:
        self.enabled = sink != "off"
        """False: do not build records, `add` would drop them uncounted."""
        # 0 once nothing is taken any more, so that `add` makes one comparison.
        self._limit = limit if self.enabled else 0
        self._records: list[AccessRecord] = []
        self._dropped = 0
        self._batches_handed = 0
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._writer = _Writer(sink, self._queue)
        self._thread: threading.Thread | None = None
        if self.enabled:
            # A daemon: a sink that hangs for ever must not keep the process from ending.
            self._thread = threading.Thread(target=self._writer.run, name="access-log", daemon=True)
            self._thread.start()

    def __repr__(self) -> str:
        return f"<AccessLog {self._writer.sink!r} waiting={len(self._records)} dropped={self.dropped}>"

    @property
    def sink(self) -> str:
        """Where it goes."""
        return self._writer.sink

    @property
    def dropped(self) -> int:
        """Records lost so far: over the bound, or the sink failed. Never goes down."""
        return self._dropped + self._writer.dropped

    def add(self, record: AccessRecord) -> None:
        """Keep `record` for the next flush; over the bound it is dropped and counted. Never blocks or
        raises."""
        if len(self._records) < self._limit:
            self._records.append(record)
        elif self.enabled:
            self._dropped += 1

    def flush(self) -> None:
        """Hand what was collected to the writer thread. Call it on every tick; never blocks."""
        # Each counter has one writer, so the difference needs no lock.
        if self._records and self.enabled and self._batches_handed - self._writer.batches_done < MAX_BATCHES:
            self._batches_handed += 1
            self._queue.put(self._records)
            self._records = []

    def reopen(self) -> None:
        """Have the file reopened between two batches, after logrotate renamed it. Never blocks."""
        self.flush()
        if self.enabled:
            self._queue.put(self._writer.forget_sink)

    def retire(self) -> None:
        """Take no more records; what is here is written, and the thread ends by itself. Never blocks."""
        if self._limit:
            self.enabled = False
            self._limit = 0
            if self._records:
                self._queue.put(self._records)
            self._records = []
            self._queue.put(None)

    def close(self, timeout: float) -> None:
        """Write everything and end the thread; blocks for at most `timeout` seconds. Idempotent."""
        if self._thread is None:
            return
        self.retire()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.error("access log %s did not take its last lines within %g s", self._writer.sink, timeout)
        self._thread = None


_Job = list[AccessRecord] | Callable[[], None] | None


class _Writer:
    """The thread's side: owns the file descriptor."""

    def __init__(self, sink: str, queue: SimpleQueue[_Job]) -> None:
        self.sink = sink
        self.dropped = 0
        self.batches_done = 0
        self._queue = queue
        self._fd = -1
        self._torn = False
        self._is_piecewise = False
        self._failed = False
        self._whole_lines_written = 0
        self._format = _Formatter()

    def run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if isinstance(job, list):
                    self._write_batch(job)
                else:
                    job()
            except Exception:
                _log.exception("access log %s: a batch was lost", self.sink)
            self.batches_done += isinstance(job, list)
        self._close()

    def forget_sink(self) -> None:
        """Close the file; the next batch opens its path again and finds another file there."""
        self._close()
        self._torn = False

    def _write_batch(self, records: list[AccessRecord]) -> None:
        for start in range(0, len(records), CHUNK_RECORDS):
            lines: list[bytes] = []
            self._whole_lines_written = 0
            try:
                self._open()
                lines = self._lines(records[start : start + CHUNK_RECORDS])
                self._write(lines)
            except OSError as error:
                unformatted = len(records) - start - (CHUNK_RECORDS if lines else 0)
                self.dropped += len(lines) - self._whole_lines_written + max(unformatted, 0)
                self._report(error)
                self._close()
                return
        if self._failed:
            self._failed = False
            _log.warning("access log %s works again, %d records were lost so far", self.sink, self.dropped)

    def _lines(self, records: list[AccessRecord]) -> list[bytes]:
        lines = []
        for record in records:
            try:
                lines.append(self._line(record))
            except (ArithmeticError, AttributeError, OSError, TypeError, ValueError) as error:
                self.dropped += 1
                self._report(error)
        return lines

    def _line(self, record: AccessRecord) -> bytes:
        line = self._format.line(record)
        text_bytes = MAX_TEXT_BYTES
        while self._is_piecewise and len(line) > ATOMIC_BYTES and text_bytes > 1:
            text_bytes //= 2
            line = self._format.line(record, text_bytes)
        return line

    def _write(self, lines: list[bytes]) -> None:
        """Write all of `lines`; on failure `_whole_lines_written` says how many made it."""
        for piece in _pieces(lines) if self._is_piecewise else [b"".join(lines)]:
            self._write_piece(piece)

    def _write_piece(self, lines: bytes) -> None:
        if self._torn:
            lines = b"\n" + lines
        view = memoryview(lines)
        written = 0
        try:
            while written < len(view):
                written += self._write_some(view[written:])
        finally:
            done = lines[:written]
            self._whole_lines_written += max(done.count(b"\n") - self._torn, 0)
            if done:
                self._torn = not done.endswith(b"\n")

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._fd, view)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            if not poll.poll(STALL_S * 1000):
                raise
            return 0

    def _open(self) -> None:
        if self._fd < 0:
            if self.sink == "stdout":
                self._fd = 1
            else:
                self._fd = os.open(self.sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            mode = os.fstat(self._fd).st_mode
            self._is_piecewise = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and self.sink != "stdout":
            try:
                os.close(fd)
            except OSError as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        """Log the first failure of a row; the recovery logs the next line."""
        if not self._failed:
            self._failed = True
            _log.error("access log %s failed, records are dropped until it works: %s", self.sink, error)


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Whole lines joined up to `ATOMIC_BYTES`; a longer one alone."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > ATOMIC_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


class _Formatter:
    """Records to lines; keeps the last second's stamp, since a batch spans few seconds."""

    def __init__(self) -> None:
        self._second = -1
        self._stamp = ""

    def line(self, record: AccessRecord, text_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """One line with its line feed, with at most `text_bytes` of each value from outside. Raises when a value is not
        as documented."""
        (
            time, request_id, client, listener, method, host, target, protocol, status, reason, outcome,
            route, cluster, endpoint, attempts, bytes_in, bytes_out, connect_s, first_byte_s, total_s,
            queue_s, data_key, data_bytes, user_agent, forwarded_for, not_retried, why, data_hit, predicted_wait_s,
            predicted_transfer_s, predicted_service_s, predicted_eviction_s, predicted_success, predicted_penalty_s,
            predicted_score_s,
        ) = record  # fmt: skip
        document = {
            "time": self._time(time),
            "request_id": _text(request_id, text_bytes),
            "client": _text(client, text_bytes),
            "listener": listener,
            "method": _text(method, text_bytes),
            "host": _text(host, text_bytes),
            "target": _text(target, text_bytes),
            "protocol": _text(protocol, text_bytes),
            "status": status,
            "reason": None if reason is None else reason.code,
            "outcome": outcome.value,
            "route": route,
            "cluster": cluster,
            "endpoint": endpoint,
            "attempts": attempts,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "connect_s": _seconds(connect_s),
            "first_byte_s": _seconds(first_byte_s),
            "total_s": _seconds(total_s),
            "queue_s": _seconds(queue_s),
            "data_key": _text(data_key, text_bytes),
            "data_bytes": data_bytes,
            "user_agent": _text(user_agent, text_bytes),
            "forwarded_for": _text(forwarded_for, text_bytes),
            "not_retried": not_retried,
            "why": why,
            "data_hit": data_hit,
            "predicted_wait_s": _seconds(predicted_wait_s),
            "predicted_transfer_s": _seconds(predicted_transfer_s),
            "predicted_service_s": _seconds(predicted_service_s),
            "predicted_eviction_s": _seconds(predicted_eviction_s),
            "predicted_success": _seconds(predicted_success),
            "predicted_penalty_s": _seconds(predicted_penalty_s),
            "predicted_score_s": _seconds(predicted_score_s),
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    def _time(self, time: float) -> str:
        """RFC 3339 in UTC, rounded down to the millisecond: `2026-01-31T23:59:59.999Z`."""
        second, millisecond = divmod(int(time * 1000), 1000)
        if second != self._second:
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        return f"{self._stamp}.{millisecond:03d}Z"


def _text(value: bytes | str | None, limit_bytes: int) -> str | None:
    """A value from outside as bounded ASCII; bytes above 0x7f and DEL as `\\xNN`. `None` stays."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace")
    cut = len(value) > limit_bytes
    text = (value[:limit_bytes] if cut else value).decode("ascii", "backslashreplace")
    if "\x7f" in text:
        text = text.replace("\x7f", "\\x7f")
    return text + "..." if cut else text


def _seconds(value: float | None) -> float | None:
    """Seconds (or odds) to the microsecond, which is more than the clock of an event loop is good for."""
    return None if value is None else round(value, 6)
