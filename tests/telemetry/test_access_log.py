"""The access log: what a line holds, and what happens to it when the sink or a value is bad."""

import logging
import os
import select
import stat
import threading
import time

import orjson
import pytest

from proxy.errors import Reason
from proxy.model import Outcome
from proxy.telemetry import access_log
from proxy.telemetry.access_log import FIELDS, MAX_BATCHES, MAX_TEXT_BYTES, AccessLog

LIMIT_S = 20.0

GOOD = {
    "time": 1_700_000_000.123,
    "request_id": b"r-1",
    "client": "192.0.2.7",
    "listener": "edge",
    "method": b"GET",
    "host": b"example.com",
    "target": b"/query?q=1",
    "protocol": "1.1",
    "status": 200,
    "reason": None,
    "outcome": Outcome.OK,
    "route": "r0",
    "cluster": "analytics",
    "endpoint": "analytics/127.0.0.1:9001",
    "attempts": 1,
    "bytes_in": 0,
    "bytes_out": 512,
    "connect_s": 0.0001234567,
    "first_byte_s": 0.25,
    "total_s": 0.5,
    "queue_s": None,
    "data_key": None,
    "data_bytes": None,
    "user_agent": b"curl/8",
    "forwarded_for": None,
    "not_retried": None,
    "why": "holder",
    "data_hit": True,
    "predicted_wait_s": 0.0,
    "predicted_transfer_s": 0.0123456789,
    "predicted_service_s": 0.02,
    "predicted_eviction_s": 0.0,
    "predicted_success": 0.7,
    "predicted_penalty_s": 1.5,
    "predicted_score_s": 1.546,
}


def record(**changed):
    return tuple({**GOOD, **changed}.values())


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def wait_for(condition):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.002)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def log(path):
    log = AccessLog(str(path))
    yield log
    log.close(LIMIT_S)


def test_a_line_has_every_field_in_order_with_units(log, path):
    log.add(record())
    refused = {"reason": Reason.NO_ROUTE, "outcome": Outcome.REFUSED, "status": 404}
    log.add(record(**refused, endpoint=None, connect_s=None))
    log.close(LIMIT_S)
    first, second = lines(path)
    assert tuple(first) == FIELDS == tuple(GOOD)
    assert first["time"] == "2023-11-14T22:13:20.123Z"
    assert first["connect_s"] == 0.000123
    assert (first["method"], first["target"]) == ("GET", "/query?q=1")
    assert (first["outcome"], first["reason"]) == ("ok", None)
    assert (second["reason"], second["endpoint"], second["connect_s"]) == ("no_route", None, None)
    assert log.dropped == 0
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


def test_the_stamp_changes_with_the_second(log, path):
    for at in (1_700_000_000.999, 1_700_000_001.0, 1_700_000_000.5):
        log.add(record(time=at))
    log.close(LIMIT_S)
    assert [line["time"][17:] for line in lines(path)] == ["20.999Z", "21.000Z", "20.500Z"]


@pytest.mark.parametrize("field", ["host", "target", "user_agent", "forwarded_for", "request_id", "method"])
def test_a_value_cannot_forge_a_line_or_a_terminal_command(log, path, field):
    every_byte = bytes(range(256))
    log.add(record(**{field: every_byte + b'"}\n{"status":500}\r\n'}))
    log.close(LIMIT_S)
    text = path.read_bytes()
    assert text.isascii() and text.count(b"\n") == 1
    assert all(byte >= 0x20 for byte in text[:-1]) and 0x7F not in text
    assert len(text.decode().splitlines()) == 1
    (line,) = lines(path)
    assert line["status"] == 200
    assert "\\x85" in line[field] and "\\x9b" in line[field] and "\\xff" in line[field]


def test_str_values_from_outside_are_escaped_too(log, path):
    log.add(record(request_id="a\u2028b\udc85"))
    log.close(LIMIT_S)
    assert path.read_bytes().isascii()


def test_a_long_value_is_cut(log, path):
    log.add(record(target=b"/" + b"a" * 100_000))
    log.close(LIMIT_S)
    (line,) = lines(path)
    assert len(line["target"]) == MAX_TEXT_BYTES + 3 and line["target"].endswith("a...")


def test_reopen_after_rename_loses_nothing(log, path):
    log.add(record(request_id=b"old"))
    log.flush()
    wait_for(path.exists)
    rotated = path.with_suffix(".1")
    path.rename(rotated)
    log.add(record(request_id=b"before the signal"))
    log.reopen()
    log.add(record(request_id=b"new"))
    log.close(LIMIT_S)
    assert [line["request_id"] for line in lines(rotated)] == ["old", "before the signal"]
    assert [line["request_id"] for line in lines(path)] == ["new"]


def test_a_full_disk_is_counted_and_logged_once(caplog):
    log = AccessLog("/dev/full")
    for _ in range(3):
        for _ in range(100):
            log.add(record())
        log.flush()
    wait_for(lambda: log.dropped == 300)
    log.close(LIMIT_S)
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR]
    assert "No space left" in caplog.text


def test_a_sink_that_works_again_gets_the_next_batch(tmp_path, caplog):
    directory = tmp_path / "later"
    path = directory / "access.log"
    log = AccessLog(str(path))
    log.add(record(request_id=b"lost"))
    log.flush()
    wait_for(lambda: log.dropped == 1)
    directory.mkdir()
    log.add(record(request_id=b"kept"))
    log.close(LIMIT_S)
    assert [line["request_id"] for line in lines(path)] == ["kept"]
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR, logging.WARNING]


def test_a_line_cut_by_a_full_disk_does_not_spoil_the_next(path, monkeypatch, caplog):
    room = [700]
    real_write = os.write

    def write(fd, data):
        if not room:
            return real_write(fd, data)
        if room[0] == 0:
            room.clear()
            raise OSError(28, "No space left on device")
        count = real_write(fd, bytes(data)[: room[0]])
        room[0] = 0
        return count

    monkeypatch.setattr(access_log.os, "write", write)
    log = AccessLog(str(path))
    for _ in range(5):
        log.add(record())
    log.flush()
    wait_for(lambda: log.dropped)
    log.add(record(request_id=b"after"))
    log.close(LIMIT_S)
    parts = path.read_bytes().split(b"\n")[:-1]
    whole = [part for part in parts if part.endswith(b"}")]
    assert len(parts) == len(whole) + 1 and log.dropped == 5 - (len(whole) - 1)
    assert orjson.loads(parts[-1])["request_id"] == "after"
    assert "works again" in caplog.text


def test_a_reader_that_left_is_no_error_for_the_loop(tmp_path, caplog):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(fifo))
    log.add(record())
    log.flush()
    wait_for(lambda: os.read(reader, 1) != b"")
    os.close(reader)
    log.add(record())
    log.flush()
    wait_for(lambda: log.dropped == 1)
    second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log.add(record())
    log.close(LIMIT_S)
    assert orjson.loads(os.read(second, 65536))["status"] == 200
    os.close(second)


def test_the_bound_holds_when_the_sink_hangs(tmp_path, caplog):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    log = AccessLog(str(fifo), limit=10)  # opening a FIFO that nobody reads hangs the writer thread
    for _ in range(MAX_BATCHES + 5):
        for _ in range(20):
            log.add(record())
        log.flush()
    kept = 10 * (MAX_BATCHES + 1)
    assert log.dropped == 20 * (MAX_BATCHES + 5) - kept
    log.close(0.01)
    assert "did not take its last lines" in caplog.text
    reader = os.open(fifo, os.O_RDONLY)  # lets the thread go and read what it had
    text = b""
    while chunk := os.read(reader, 1 << 20):
        text += chunk
    os.close(reader)
    assert text.count(b"\n") == kept


def test_writers_on_one_pipe_do_not_tear_each_others_lines(tmp_path):
    """Whatever the kernel mixes, it is whole lines: no write is longer than a pipe takes at once."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    logs, got, count = [AccessLog(str(fifo)) for _ in range(2)], bytearray(), 400

    def read():
        with fifo.open("rb") as reader:
            while part := reader.read(1 << 16):
                got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(count):
        for log in logs:
            log.add(record(target=b"/%d/" % number + b"x" * (number * 7), user_agent=b"\x00" * (number * 3)))
    for log in logs:
        log.flush()
    for log in logs:
        log.close(LIMIT_S)
    reader.join(LIMIT_S)
    found = got.splitlines(keepends=True)
    assert max(map(len, found)) <= select.PIPE_BUF
    targets = sorted(orjson.loads(line)["target"].split("/")[1] for line in found)
    assert targets == sorted([str(number) for number in range(count)] * 2)


def test_a_file_gets_long_lines_whole(log, path):
    log.add(record(target=b"/" + b"\x00" * MAX_TEXT_BYTES))
    log.close(LIMIT_S)
    assert len(path.read_bytes()) > select.PIPE_BUF
    assert len(lines(path)[0]["target"]) == MAX_TEXT_BYTES + 3


def test_a_record_that_is_not_as_documented_is_dropped_alone(log, path, caplog):
    log.add(record(route=object()))
    log.add(record(time=1e30))
    log.add(record())
    log.close(LIMIT_S)
    assert len(lines(path)) == 1 and log.dropped == 2


def test_stdout(capfd):
    log = AccessLog("stdout")
    log.add(record())
    log.reopen()
    log.add(record())
    log.close(LIMIT_S)
    out = capfd.readouterr().out
    assert out.count("\n") == 2 and out.count('"request_id":"r-1"') == 2
    os.fstat(1)  # still open


def test_off_costs_nothing_and_keeps_nothing():
    threads = threading.active_count()
    log = AccessLog("off")
    assert not log.enabled and threading.active_count() == threads
    log.add(record())
    log.flush()
    log.reopen()
    log.close(0)
    assert repr(log) == "<AccessLog 'off' waiting=0 dropped=0>"


def test_after_close_nothing_is_kept(log, path):
    log.close(LIMIT_S)
    log.close(LIMIT_S)
    log.add(record())
    log.flush()
    assert not path.exists() and "waiting=0" in repr(log)
