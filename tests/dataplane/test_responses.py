"""What Homeport answers itself, byte for byte."""

import json

import pytest

from proxy.dataplane.responses import fixed_answer, phrase_of, refusal, render
from proxy.errors import ExchangeError, Reason, RoutingError
from proxy.snapshot import RespondSpec

DATE = b"\r\nDate: now"


def rendered(status=200, *, body=b"hello", fields=(), keep_alive=True, minor=1, with_body=True):
    return render(
        status,
        body=body,
        fields=fields,
        date_line=DATE,
        keep_alive=keep_alive,
        minor=minor,
        with_body=with_body,
    )


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\nhello"),
        ({"body": b""}, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: now\r\n\r\n"),
        ({"with_body": False}, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\n"),
        (
            {"keep_alive": False},
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\nConnection: close\r\n\r\nhello",
        ),
        (
            {"minor": 0},
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\nConnection: keep-alive\r\n\r\nhello",
        ),
        (
            {"minor": 0, "keep_alive": False},
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\nConnection: close\r\n\r\nhello",
        ),
        ({"status": 204}, b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"),
        ({"status": 304}, b"HTTP/1.1 304 \r\nDate: now\r\n\r\n"),
        (
            {"status": 299, "fields": [(b"A", b"1"), (b"B", b"")]},
            b"HTTP/1.1 299 \r\nA: 1\r\nB: \r\nContent-Length: 5\r\nDate: now\r\n\r\nhello",
        ),
    ],
)
def test_render(options, raw):
    """RFC 9110 8.6, 15.3.5, RFC 9112 4: a length where a body may be, none at 204 and 304."""
    assert rendered(**options) == raw


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.status != 499])
def test_refusal(reason):
    """A short JSON body that names the reason, and a phrase for each status."""
    body, fields = refusal(ExchangeError(reason), b"id-1")
    assert json.loads(body) == {
        "error": reason.name.lower(), "message": reason.text, "status": reason.status, "request_id": "id-1",
    }  # fmt: skip
    assert fields == [(b"Content-Type", b"application/json")]
    assert len(body) < 256
    assert phrase_of(reason.status)


def test_what_a_refusal_adds():
    _, fields = refusal(RoutingError(Reason.METHOD_NOT_ALLOWED, b"GET, HEAD"), b"id")
    assert fields[1:] == [(b"Allow", b"GET, HEAD")]
    _, fields = refusal(RoutingError(Reason.OVERLOADED, retry_after_s=7), b"id")
    assert fields[1:] == [(b"Retry-After", b"7")]


def test_fixed_answer():
    assert fixed_answer(RespondSpec(204)) == (b"", [])
    plain = (b"Content-Type", b"text/plain; charset=utf-8")
    assert fixed_answer(RespondSpec(200, b"hi", (("X-A", "1"),))) == (b"hi", [(b"X-A", b"1"), plain])
    typed = RespondSpec(200, b"{}", (("content-TYPE", "application/json"),))
    assert fixed_answer(typed) == (b"{}", [(b"content-TYPE", b"application/json")])
