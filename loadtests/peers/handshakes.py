"""A client that makes a new TLS connection for each request, as fast as it goes.

wrk is not used for it: when replies close their connections it stalls at times, with every proxy. Threads with
blocking sockets, because OpenSSL works outside the interpreter's lock; the full handshake is made each time, no session
is resumed.

Run as `python -m loadtests.peers.handshakes PORT FILE --seconds S`; FILE holds the request as sent, which asks for the
end of the connection. Prints one line of JSON like wrk.lua's.
"""

import argparse
import collections
import json
import socket
import ssl
import threading
import time
from pathlib import Path

from loadtests.peers.verify import tls_context

LIMIT_S = 10.0


class Client:
    """What one thread does, and what came of it."""

    def __init__(self, port: int, request: bytes, context: ssl.SSLContext, end_s: float) -> None:
        self._port = port
        self._request = request
        self._context = context
        self._end_s = end_s
        self.latencies_s: list[float] = []
        self.bytes = 0
        self.errors: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        while (start_s := time.perf_counter()) < self._end_s:
            try:
                self._exchange()
            except OSError:
                self.errors["read"] += 1
                return
            self.latencies_s.append(time.perf_counter() - start_s)

    def _exchange(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=LIMIT_S)
        with self._context.wrap_socket(plain) as sock:
            sock.sendall(self._request)
            status = b""
            while piece := sock.recv(65536):
                status = status or piece[9:12]
                self.bytes += len(piece)
            if status != b"200":
                self.errors["status"] += 1


def load(port: int, request: bytes, seconds: float, clients: int) -> dict[str, object]:
    """Run for `seconds` and sum up."""
    start_s = time.perf_counter()
    context = tls_context()
    all_clients = [Client(port, request, context, start_s + seconds) for _ in range(clients)]
    threads = [threading.Thread(target=client.run) for client in all_clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = sum((client.errors for client in all_clients), collections.Counter[str]())
    ordered = sorted(latency for client in all_clients for latency in client.latencies_s) or [0.0]
    return {
        "requests": sum(len(client.latencies_s) for client in all_clients),
        "duration_us": round((time.perf_counter() - start_s) * 1e6),
        "bytes": sum(client.bytes for client in all_clients),
        "p50_us": round(ordered[len(ordered) // 2] * 1e6),
        "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6),
        "errors": dict(errors),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.handshakes", description="TLS handshakes."
    )
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path, help="the request as sent")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    print(json.dumps(load(options.port, options.file.read_bytes(), options.seconds, options.clients)))


if __name__ == "__main__":
    main()
