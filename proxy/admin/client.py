"""The commands that ask a running daemon's admin API and show the answer: `homeport status`, `homeport reload`.

`status` shows tables on a terminal, plain columns in a pipe, and with `--json` one document: that of `/api/v1/status`
with the clusters of `/api/v1/clusters` in it. Only the standard library's client is used: one request at a
time is all it takes.
"""

import http.client
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import urlsplit

import orjson

from proxy.admin.render import render_plain, render_tables
from proxy.errors import ProxyError

EXIT_FAILED = 1
EXIT_FAULTY = 2

TIMEOUT_S = 5.0
"""Seconds for each step of a request: the daemon answers from memory."""

ASKING_TIMEOUT_S = 60.0
"""The same for what the daemon has to work on: it resolves names and waits for its workers."""

FAULTY = 422
"""Status of the answer when what was asked for has faults, which the document names."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A full fleet's document has about 1 MiB; what is far larger is no Homeport."""


class AdminUnreachable(ProxyError):
    """No usable answer: what happened, and what to do about it."""

    def __init__(self, admin: str, problem: str, advice: str) -> None:
        super().__init__(admin, problem, advice)
        self.admin = admin
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"no answer from the admin API at {self.admin}: {self.problem}; {self.advice}"


class AdminRefused(AdminUnreachable):
    """The daemon knows nothing of the name that was given, or cannot do it now; its own words say so."""

    def __str__(self) -> str:
        return self.advice


# Answers to what was asked for, rather than to who asks.
_REFUSALS = frozenset({400, 404, 409, 504})


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where an admin API is."""

    text: str
    host: str
    port: int
    socket_path: str
    """Empty for TCP."""


def parse_admin(text: str) -> AdminAddress:
    """`http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`. Raises AdminUnreachable for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return AdminAddress(text, "localhost", 0, "/" + path.lstrip("/") if path.startswith("//") else path)
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if url.scheme != "http" or not host or url.path not in ("", "/") or url.query or url.username is not None:
        raise AdminUnreachable(text, "this is no address", "give http://HOST:PORT or unix:/PATH")
    return AdminAddress(text, host, port or 9901, "")


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch(address: AdminAddress, path: str, token: str | None, *, is_asking: bool = False) -> Any:
    """The JSON document at `path`, or the answer to a POST there when `is_asking`. Raises AdminUnreachable. Blocks for
    a few times the time limit at most."""
    timeout_s = ASKING_TIMEOUT_S if is_asking else TIMEOUT_S
    connection = (
        _SocketConnection(address.socket_path, timeout_s)
        if address.socket_path
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    )
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request("POST" if is_asking else "GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER_BYTES)
        if response.length:  # cut short, or larger than that: a bounded read() does not tell
            raise _no_homeport(address)
    except OSError as error:
        advice = "is the daemon running, and is this its admin.bind? see --admin"
        raise AdminUnreachable(address.text, error.strerror or str(error), advice) from error
    except (http.client.HTTPException, ValueError) as error:
        raise _no_homeport(address) from error
    finally:
        connection.close()
    return _document(address, response.status, body)


def _document(address: AdminAddress, status: int, body: bytes) -> Any:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _no_homeport(address) from error
    if not isinstance(document, dict) or (status != 200 and "message" not in document):
        raise _no_homeport(address)
    if status == FAULTY:
        return document
    if status != 200:
        kind = AdminRefused if status in _REFUSALS else AdminUnreachable
        raise kind(address.text, f"it refuses with status {status}", str(document["message"]))
    return document


def _no_homeport(address: AdminAddress) -> AdminUnreachable:
    advice = "give the daemon's admin.bind with --admin, not one of its listeners"
    return AdminUnreachable(address.text, "what listens there is no admin API of Homeport", advice)


def exit_code(ask: Callable[[AdminAddress], int], admin: str, err: TextIO) -> int:
    """That of `ask`, called with where the daemon at `admin` is; 1, and a line on `err`, when it gives no usable
    answer."""
    try:
        return ask(parse_admin(admin))
    except AdminUnreachable as error:
        print(f"homeport: {error}", file=err)
    except (KeyError, TypeError) as error:
        print(f"homeport: {admin} answers as another version would: {error!r} is missing or odd", file=err)
    return EXIT_FAILED


def document_text(document: Any) -> str:
    """A document as `--json` prints it for people too."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def show_status(
    admin: str, token: str | None, as_json: bool, out: TextIO | None = None, err: TextIO | None = None
) -> int:
    """Print the state of the daemon at `admin` to `out` (stdout); returns the exit code.

    0, or 1 with one line on `err` (stderr) when there is no usable answer.
    """
    out, err = out or sys.stdout, err or sys.stderr

    def ask(address: AdminAddress) -> int:
        status = fetch(address, "/api/v1/status", token)
        status["clusters"] = fetch(address, "/api/v1/clusters", token)["clusters"]
        if as_json:
            text = document_text(status)
        else:
            text = render_tables(status, out) if out.isatty() else render_plain(status)
        out.write(text)
        return 0

    return exit_code(ask, admin, err)


def ask_reload(
    admin: str, token: str | None, as_json: bool, out: TextIO | None = None, err: TextIO | None = None
) -> int:
    """Have the daemon at `admin` read its configuration again, and print what became of it; returns the exit code.

    0 when the file's configuration is served, 2 with a line for each fault on `err` when it has any, 1 when there is no
    usable answer.
    """
    out, err = out or sys.stdout, err or sys.stderr

    def ask(address: AdminAddress) -> int:
        answer = fetch(address, "/api/v1/reload", token, is_asking=True)
        if as_json:
            out.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode())
        elif not answer["faults"]:
            before, changes = "", answer["changes"]
            if answer["last_applied"] is not None:
                before = ", applied at {time} ({trigger})".format(**answer["last_applied"])
                changes = answer["last_applied"]["changes"]
            print(
                f"{answer['outcome']}: generation {answer['generation']}{before}",
                *changes,
                sep="\n",
                file=out,
            )
        for fault in answer["faults"]:
            print(fault, file=err)
        return EXIT_FAULTY if answer["faults"] else 0

    return exit_code(ask, admin, err)
