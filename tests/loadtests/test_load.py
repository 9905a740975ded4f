"""Summaries are parsed strictly, and everything that invalidates a measurement is found."""

import contextlib
import socket
import subprocess
import sys
import threading

import orjson
import pytest

from loadtests.peers.load import Summary, parse_summary, problems
from loadtests.peers.processes import ChildError
from loadtests.peers.rows import BY_NAME

LINE = (
    '{"requests": 200, "duration_us": 2000000, "bytes": 30000, "p50_us": 1500, "p99_us": 9000, '
    '"errors": {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}}'
)
GOOD = Summary(200, 2.0, 30_000, 1.5, 9.0, {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0})


def test_the_last_line_is_the_summary():
    assert parse_summary(f"Running 2s test\n  1 threads\n{LINE}\n") == GOOD


@pytest.mark.parametrize("output", ["", "unable to connect", '{"requests": 1}', "[]"])
def test_anything_else_is_an_error(output):
    with pytest.raises(ChildError, match="no summary"):
        parse_summary(output)


def test_a_clean_summary_is_valid():
    assert problems(BY_NAME["tiny"], GOOD, None) == ()


@pytest.mark.parametrize(
    ("change", "row", "rate", "found"),
    [
        ({"errors": {"status": 3, "read": 0}}, "tiny", None, ("3 × status error",)),
        ({"requests": 0, "bytes": 0}, "tiny", None, ("no reply",)),
        ({}, "10k", None, ("30000 bytes for 200 replies of 10000",)),
        ({}, "half", 150.0, ("reached 100/s of 150/s",)),
        ({}, "half", 101.0, ()),
    ],
)
def test_what_makes_a_measurement_invalid(change, row, rate, found):
    values = {name: getattr(GOOD, name) for name in GOOD.__dataclass_fields__} | change
    assert problems(BY_NAME[row], Summary(**values), rate) == found


def serve(listener: socket.socket, reply: bytes) -> None:
    """Answer every request on every connection until the client goes."""

    def answer(connection: socket.socket) -> None:
        # The client leaves at the first fault, with replies unread.
        with connection, contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                connection.sendall(reply)

    for _ in range(2):
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


@pytest.mark.parametrize(
    ("reply", "errors"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", set()),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", {"status"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {"no Content-Length"}),
    ],
)
def test_the_paced_client_counts_replies_and_faults(reply, errors, tmp_path):
    file = tmp_path / "request"
    file.write_bytes(BY_NAME["half"].request())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, reply))
        server.start()
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.peers.paced", str(listener.getsockname()[1]), str(file)]
            + ["--rate", "200", "--seconds", "0.5", "--connections", "2"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        server.join()
    said = orjson.loads(done.stdout)
    assert set(said["errors"]) == errors
    if not errors:
        # 200/s for 0.45 s of counted time is 90 on average; a Poisson count stays within five deviations.
        assert 40 < said["requests"] < 140
        assert said["bytes"] == said["requests"] * len(reply)
        assert 0 < said["p50_us"] <= said["p99_us"]
