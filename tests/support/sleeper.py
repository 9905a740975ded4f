"""A service that is started as a process: it works on four requests at once, each for as long as `?s=` says, and
answers with its process id. After `--ready-after` seconds it listens at the port; with `--never` it does not."""

import argparse
import http.server
import os
import threading
import time
from urllib.parse import parse_qs, urlsplit

SLOTS = threading.Semaphore(4)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "die" in query:
            os._exit(1)
        if "s" in query:
            with SLOTS:
                time.sleep(float(query["s"][0]))
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--never", action="store_true")
    options = parser.parse_args()
    print("reading the catalogue", flush=True)
    if options.never:
        print("the catalogue is not there", flush=True)
        threading.Event().wait()
    time.sleep(options.ready_after)
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
