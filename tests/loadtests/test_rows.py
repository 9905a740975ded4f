"""The requests are what their rows say, on the wire: h11 reads them back."""

import h11
import pytest

from loadtests.peers.origin import UPLOAD_BYTES, payload
from loadtests.peers.rows import BY_NAME, ROWS, Body


def read_request(raw: bytes) -> tuple[h11.Request, bytes]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    connection.receive_data(b"")
    request, body = connection.next_event(), b""
    assert isinstance(request, h11.Request)
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert connection.trailing_data[0] == b""
    return request, body


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_request_is_one_whole_request(row):
    request, body = read_request(row.request())
    assert request.target == row.path.encode()
    assert body == (b"" if row.body is Body.NONE else payload(UPLOAD_BYTES))


def test_the_row_of_twelve_headers_has_twelve():
    request, _ = read_request(BY_NAME["headers"].request())
    assert len(list(request.headers)) == 12


def test_uploads_differ_in_their_framing_alone():
    by_length, chunked = (
        dict(read_request(BY_NAME[n].request())[0].headers) for n in ("upload", "upload-chunked")
    )
    assert by_length.pop(b"content-length") == str(UPLOAD_BYTES).encode()
    assert chunked.pop(b"transfer-encoding") == b"chunked"
    assert by_length == chunked


def test_another_path_keeps_everything_else():
    row = BY_NAME["upload-chunked"]
    assert row.request("/echo") == row.request().replace(b" /upload ", b" /echo ", 1)


def test_payload_has_no_short_period():
    text = payload(100_000)
    blocks = [text[at : at + 1000] for at in range(0, len(text), 1000)]
    assert len(text) == 100_000
    assert len(set(blocks)) == len(blocks)
