"""An endpoint that is killed in the middle of its work, again and again.

    python -m loadtests.faults.mortal PORT LOG SEED

A child accepts and answers; at a random point of a random request it kills itself (SIGKILL), and the next child is
started, with a listening socket of its own: until then the kernel refuses connections. The points are: on accept;
within the head; after the head; within the body; after the whole request; within the reply's head; within its body;
after the reply, on an idle connection.

Each request whose head was read is a line of LOG, its X-Id, and each kill is the line `kill`; written with one call
before anything else happens, so that no kill loses any.
"""

import os
import random
import re
import select
import signal
import socket
import sys

POINTS = ("accept", "in head", "head", "in body", "request", "in reply head", "in reply", "idle")
MOST_REQUESTS = 12
"""A child dies at one of its first requests."""
REPLY_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n"
REPLY_BODY = b"d" * 64
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ID = re.compile(rb"\r\nx-id: *(\w+)", re.IGNORECASE)


class Mortal:
    """One life."""

    def __init__(self, port: int, log_fd: int, rng: random.Random) -> None:
        self._log_fd = log_fd
        self._dies_at = rng.choice(POINTS)
        self._requests_left = rng.randint(1, MOST_REQUESTS)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self._buffers: dict[socket.socket, bytes] = {}
        self._missing: dict[socket.socket, int] = {}
        """Bytes of the body to come, by connection with a request."""

    def live(self) -> None:
        """Never returns."""
        poll = select.epoll()
        poll.register(self._listener, select.EPOLLIN)
        by_fd: dict[int, socket.socket] = {}
        while True:
            for fd, _ in poll.poll():
                if fd == self._listener.fileno():
                    sock, _ = self._listener.accept()
                    self._at("accept", is_new=True)
                    by_fd[sock.fileno()] = sock
                    self._buffers[sock] = b""
                    poll.register(sock, select.EPOLLIN)
                elif not self._read(by_fd[fd]):
                    poll.unregister(fd)
                    sock = by_fd.pop(fd)
                    self._buffers.pop(sock)
                    self._missing.pop(sock, None)
                    sock.close()

    def _at(self, point: str, *, is_new: bool = False) -> None:
        """Die here, if that is meant to be, or if the point where it was to die does not come."""
        if is_new:
            self._requests_left -= 1
        if self._requests_left <= (0 if point == self._dies_at else -MOST_REQUESTS):
            os.kill(os.getpid(), signal.SIGKILL)

    def _read(self, sock: socket.socket) -> bool:
        """Take what came; false at the end of the connection."""
        try:
            data = sock.recv(65536)
        except OSError:
            return False
        if not data:
            return False
        if sock in self._missing:
            self._missing[sock] -= len(data)
            self._at("in body")
        else:
            self._buffers[sock] += data
            head, end, body = self._buffers[sock].partition(b"\r\n\r\n")
            if not end:
                self._at("in head", is_new=True)
                return True
            self._on_head(sock, head, body)
        if self._missing[sock] == 0:
            return self._answer(sock)
        return True

    def _on_head(self, sock: socket.socket, head: bytes, body: bytes) -> None:
        found, length = ID.search(head), LENGTH.search(head)
        if found is None or length is None:
            raise ValueError(f"not one of our requests: {head!r}")
        os.write(self._log_fd, found.group(1) + b"\n")
        self._buffers[sock] = b""
        self._missing[sock] = int(length.group(1)) - len(body)
        self._at("head", is_new=True)
        self._at("in head")

    def _answer(self, sock: socket.socket) -> bool:
        del self._missing[sock]
        self._at("request")
        self._at("in body")  # it came at once
        try:
            sock.sendall(REPLY_HEAD[:17])
            self._at("in reply head")
            sock.sendall(REPLY_HEAD[17:] + REPLY_BODY[:32])
            self._at("in reply")
            sock.sendall(REPLY_BODY[32:])
        except OSError:
            return False
        self._at("idle")
        return True


def main() -> None:
    """Live, die, and begin anew, until SIGTERM."""
    port, log, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random(seed)
    while True:
        child = os.fork()
        if not child:
            Mortal(port, log_fd, rng).live()
        # The generator goes on in the parent too: the next life is another one.
        rng.random()
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit("a life ended otherwise than by its kill")
        os.write(log_fd, b"kill\n")


if __name__ == "__main__":
    main()
