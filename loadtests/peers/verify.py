"""Before anything is timed: does this proxy deliver every byte, do the duties, and use both endpoints?"""

import http.client
import socket
import ssl
import time
from dataclasses import dataclass

from loadtests.peers.certificate import NAME
from loadtests.peers.origin import FORWARDING_HEADERS, SIZES, UPLOAD_BYTES, payload
from loadtests.peers.processes import ChildError
from loadtests.peers.rows import Body, Row

LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def exchange(port: int, request: bytes, *, tls: bool = False) -> Reply:
    """Send the bytes on a new connection and read one reply; raises OSError or HTTPException."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    with tls_context().wrap_socket(plain, server_hostname=NAME) if tls else plain as sock:
        sock.sendall(request)
        response = http.client.HTTPResponse(sock)
        response.begin()
        return Reply(response.status, response.headers, response.read())


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 with whoever answers: the certificate is of the benchmark's own making."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def wait_until_forwarding(port: int) -> None:
    """Return when a request comes back with 200: some listen before they have their routes. Raises
    ChildError."""
    deadline = time.monotonic() + LIMIT_S
    last = "nothing"
    while time.monotonic() < deadline:
        try:
            status = exchange(port, b"GET /tiny HTTP/1.1\r\nHost: data.example\r\n\r\n").status
            if status == 200:
                return
            last = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        time.sleep(0.05)
    raise ChildError(f"port {port} does not forward after {LIMIT_S:.0f} s, last answer: {last}")


def check_row(row: Row, port: int) -> list[str]:
    """What is wrong with this row's replies through the proxy on `port`; empty when every byte is right."""
    try:
        faults = _check_reply(row, exchange(port, row.request(), tls=row.tls))
        if row.body is not Body.NONE:
            faults += _check_echo(exchange(port, row.request("/echo"), tls=row.tls))
    except (OSError, http.client.HTTPException) as error:
        return [f"no whole reply: {error!r}"]
    return faults


def _check_reply(row: Row, reply: Reply) -> list[str]:
    if reply.status != 200:
        return [f"status {reply.status}"]
    if row.body is not Body.NONE:
        received = int(reply.body) if reply.body.strip().isdigit() else 0
        return [] if received > UPLOAD_BYTES else [f"the origin got {received} bytes of {UPLOAD_BYTES}"]
    faults = []
    if reply.body != (b"ok\n" if row.reply_bytes == SIZES["tiny"] else payload(row.reply_bytes)):
        faults.append(f"{len(reply.body)} bytes that differ from the origin's {row.reply_bytes}")
    is_chunked = reply.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if is_chunked != (row.path == "/chunked"):
        faults.append("chunked" if is_chunked else "not chunked")
    return faults


def _check_echo(reply: Reply) -> list[str]:
    return [] if reply.body == payload(UPLOAD_BYTES) else ["the origin got other bytes than were sent"]


def missing_duties(port: int) -> list[str]:
    """The forwarding headers that do not reach the origin; raises OSError or HTTPException."""
    reply = exchange(port, b"GET /headers HTTP/1.1\r\nHost: data.example\r\n\r\n")
    lines = reply.body.decode().splitlines()[1:]
    arrived = {name for name, _, value in (line.partition(": ") for line in lines) if value.strip()}
    return [name for name in FORWARDING_HEADERS if name not in arrived]


def endpoints_used(port: int) -> int:
    """On how many of its ports the origin is reached by a few requests; raises OSError or HTTPException."""
    request = b"GET /port HTTP/1.1\r\nHost: data.example\r\n\r\n"
    return len({exchange(port, request).body for _ in range(8)})
