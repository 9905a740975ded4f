"""What is measured: one row of the table each, and the request exactly as it stands on the wire.

The same bytes go into the check before timing, into wrk and into the paced client, so that what was checked
is what was timed.
"""

import enum
from dataclasses import dataclass

from loadtests.peers.origin import SIZES, UPLOAD_BYTES, payload

UPLOAD_CHUNK_BYTES = 32 * 1024  # as the chunks of the origin's replies

# What a current browser sends for a fetch, Host included: twelve fields, 640 bytes.
BROWSER_HEADERS = (
    ("Connection", "keep-alive"),
    ("sec-ch-ua", '"Chromium";v="130", "Not?A_Brand";v="99"'),
    ("sec-ch-ua-platform", '"Linux"'),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
    ),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9"),
    ("Referer", "http://data.example/datasets/customers/overview"),
    ("Cookie", "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1"),
    ("Authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmFseXN0In0.kp5sQ0m1zq0r3vZ0xJ8s"),
    ("X-Dataset-Id", "customers-2024"),
)
CLOSING_HEADERS = (("Connection", "close"), *BROWSER_HEADERS[1:])


class Body(enum.Enum):
    """How the request carries its body."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request at one kind of load."""

    name: str
    title: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = Body.NONE
    reply_bytes: int = SIZES["tiny"]
    """Least number of body bytes of each reply."""
    tls: bool = False
    """Over TLS 1.3. Only for the proxies that are set up for it."""
    reconnects: bool = False
    """A new connection for each request."""
    load: float | None = None
    """None: as fast as it goes, 64 connections. A number: that share of the proxy's own requests/s of
    `headers`."""

    def request(self, path: str | None = None) -> bytes:
        """The bytes to send, to `path` instead of the row's when given."""
        method = "GET" if self.body is Body.NONE else "POST"
        fields = [("Host", "data.example"), *self.headers]
        body = b""
        if self.body is Body.LENGTH:
            body = payload(UPLOAD_BYTES)
            fields.append(("Content-Length", str(len(body))))
        elif self.body is Body.CHUNKED:
            body = chunked(payload(UPLOAD_BYTES))
            fields.append(("Transfer-Encoding", "chunked"))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{method} {path or self.path} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    """`body` in the chunked coding, RFC 9112 section 7.1."""
    parts = [body[at : at + UPLOAD_CHUNK_BYTES] for at in range(0, len(body), UPLOAD_CHUNK_BYTES)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ROWS = (
    Row("tiny", "tiny GET", "/tiny"),
    Row("headers", "GET with 12 headers", "/tiny", BROWSER_HEADERS),
    Row("10k", "10 KB reply", "/10k", reply_bytes=SIZES["10k"]),
    Row("1m", "1 MB reply, by length", "/1m", reply_bytes=SIZES["1m"]),
    Row("1m-chunked", "1 MB reply, chunked", "/chunked", reply_bytes=SIZES["1m"]),
    Row("upload", "1 MB upload, by length", "/upload", body=Body.LENGTH),
    Row("upload-chunked", "1 MB upload, chunked", "/upload", body=Body.CHUNKED),
    Row("tls", "12 headers, TLS 1.3, keep-alive", "/tiny", BROWSER_HEADERS, tls=True),
    Row(
        "handshakes",
        "TLS 1.3, a handshake for each request",
        "/tiny",
        CLOSING_HEADERS,
        tls=True,
        reconnects=True,
    ),
    Row("half", "12 headers at 50 % of saturation", "/tiny", BROWSER_HEADERS, load=0.5),
    Row("third", "12 headers at 30 % of saturation", "/tiny", BROWSER_HEADERS, load=0.3),
)
BY_NAME = {row.name: row for row in ROWS}
SATURATION = BY_NAME["headers"]
"""The row whose requests/s is what the shares of load are of."""
