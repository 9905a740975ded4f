"""Thousands of clients that take their time: `python -m loadtests.faults.slow KIND PORT --clients N`.

    heads     send a byte of a request's head each second, and never all of it
    bodies    send a byte of a body each second
    readers   ask for a megabyte and read a few bytes of it each second

Who is cut off comes back as another. It prints `complete` when N have come, and at its end, on SIGTERM,
`{"opened": …, "cut": …, "open": …, "answers": {STATUS: …}}`.
"""

import argparse
import collections
import json
import select
import signal
import socket
import time
from types import FrameType

from loadtests.faults.endpoint import RESET
from loadtests.peers.memory import raise_descriptor_limit

KINDS = {
    "heads": b"GET /slow/ HTTP/1.1\r\nHost: slow.test\r\nX-Slow: ",
    "bodies": b"POST /slow/ HTTP/1.1\r\nHost: slow.test\r\nContent-Length: 100000\r\n\r\n",
    "readers": b"GET /slow/bytes/1000000 HTTP/1.1\r\nHost: slow.test\r\n\r\n",
}
TURN_S = 0.01
COMPLETE = "complete"
EACH_S = 1.0
"""Seconds between two bytes of one client."""
OPENED_PER_TURN = 5
"""Most new clients in a turn: 500/s."""
READ_BYTES = 64
BUFFER_BYTES = 4096
"""Receive buffer of a reader: little of the reply may hide in its own socket."""
LINGER_S = 5.0


class Slow:
    """All of them."""

    def __init__(self, kind: str, port: int, clients: int) -> None:
        self._kind = kind
        self._port = port
        self._clients = clients
        self._open: dict[int, socket.socket] = {}
        self._turn_of: collections.deque[tuple[float, socket.socket]] = collections.deque()
        self._poll = select.epoll()
        self._opened = self._cut = 0
        self._answers = collections.Counter[str]()
        self.is_over = False

    def run(self) -> dict[str, object]:
        """Until it `is_over`."""
        is_complete = False
        while not self.is_over:
            began = time.monotonic()
            if not is_complete and self._opened >= self._clients:
                is_complete = True
                print(COMPLETE, flush=True)
            for _ in range(min(OPENED_PER_TURN, self._clients - len(self._open))):
                self._connect()
            while self._turn_of and self._turn_of[0][0] <= began:
                self._act(self._turn_of.popleft()[1])
            for fd, _ in self._poll.poll(0):
                self._take(fd)
            time.sleep(max(0.0, began + TURN_S - time.monotonic()))
        told = {
            "opened": self._opened,
            "cut": self._cut,
            "open": len(self._open),
            "answers": dict(self._answers),
        }
        for sock in self._open.values():
            reset(sock)
        return told

    def _connect(self) -> None:
        sock = socket.socket()
        sock.settimeout(LINGER_S)
        if self._kind == "readers":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        try:
            # Several source addresses: one has 28 000 ports, which other things here use as well.
            sock.bind((f"127.0.1.{1 + self._opened % 8}", 0))
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(KINDS[self._kind])
        except OSError:
            reset(sock)
            return
        sock.setblocking(False)
        self._opened += 1
        fd = sock.fileno()
        self._open[fd] = sock
        # A reader looks when it is its turn; the others hear at once when they are cut off.
        self._poll.register(fd, 0 if self._kind == "readers" else select.EPOLLIN)
        self._turn_of.append((time.monotonic() + EACH_S, sock))

    def _act(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if fd < 0:
            return
        try:
            if self._kind == "readers":
                if not sock.recv(READ_BYTES):
                    raise ConnectionError("closed")
            else:
                sock.send(b"x")
        except BlockingIOError:
            pass
        except OSError:
            self._drop(fd)
            return
        self._turn_of.append((time.monotonic() + EACH_S, sock))

    def _take(self, fd: int) -> None:
        """Something came that nobody waited for: an answer such as 408, or the end."""
        try:
            data = self._open[fd].recv(4096) if self._kind != "readers" else b""
        except OSError:
            data = b""
        if data:
            self._answers[data[9:12].decode(errors="replace")] += 1
        self._drop(fd)

    def _drop(self, fd: int) -> None:
        sock = self._open.pop(fd)
        self._poll.unregister(fd)
        reset(sock)
        self._cut += 1


def reset(sock: socket.socket) -> None:
    """Close it for good: thousands in TIME_WAIT would use up the ports."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.slow", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, required=True)
    options = parser.parse_args()
    raise_descriptor_limit()
    slow = Slow(options.kind, options.port, options.clients)

    def end(number: int, frame: FrameType | None) -> None:
        slow.is_over = True

    signal.signal(signal.SIGTERM, end)
    print(json.dumps(slow.run()))


if __name__ == "__main__":
    main()
