"""A mixed workload against a proxy in front of the sample data services of `homeport demo`.

    locust -f loadtests/locustfile.py --headless -u 50 -r 10 -t 30s -H http://127.0.0.1:8080

Small requests, queries by dataset with a skewed popularity, uploads whose checksum the service confirms, and
large downloads that are compared byte for byte. Any deviation is a failure; locust's exit status is then 1.
The same for a proxy elsewhere: only the host changes. Environment variables:

    HOMEPORT_LOAD_PREFIX          before every path, where the proxy routes one to the services ("")
    HOMEPORT_LOAD_DATASETS        number of datasets (200)
    HOMEPORT_LOAD_ZIPF            exponent of their popularity; 0 is even, far above 1 a few rule (1.1)
    HOMEPORT_LOAD_SEED            of the whole sequence; each user has a sequence of its own (1)
    HOMEPORT_LOAD_DOWNLOAD_BYTES  size of a download (1000000)
    HOMEPORT_LOAD_UPLOAD_BYTES    largest upload; sizes are spread evenly below it (1000000)
    HOMEPORT_LOAD_WAIT_S          mean pause of a user between requests, seconds; 0 for none (0.05)
"""

import bisect
import hashlib
import itertools
import os
import random
from collections.abc import Iterator

from locust import FastHttpUser, task

from proxy.demo import sample

PREFIX = os.environ.get("HOMEPORT_LOAD_PREFIX", "")
DATASETS = int(os.environ.get("HOMEPORT_LOAD_DATASETS", "200"))
ZIPF = float(os.environ.get("HOMEPORT_LOAD_ZIPF", "1.1"))
SEED = int(os.environ.get("HOMEPORT_LOAD_SEED", "1"))
DOWNLOAD_BYTES = int(os.environ.get("HOMEPORT_LOAD_DOWNLOAD_BYTES", "1000000"))
UPLOAD_BYTES = int(os.environ.get("HOMEPORT_LOAD_UPLOAD_BYTES", "1000000"))
WAIT_S = float(os.environ.get("HOMEPORT_LOAD_WAIT_S", "0.05"))
UPLOAD_CHUNK_BYTES = 64 * 1024


class Zipf:
    """Ranks 0 to `count`-1, rank r with a weight of 1 / (r + 1) ** `exponent`."""

    def __init__(self, count: int, exponent: float) -> None:
        weights = (1 / (rank + 1) ** exponent for rank in range(count))
        self._cumulative = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        """A rank."""
        return bisect.bisect(
            self._cumulative, rng.random() * self._cumulative[-1], hi=len(self._cumulative) - 1
        )


def chunks(body: bytes) -> Iterator[bytes]:
    """The body in pieces, which makes the client send it with chunked coding."""
    for at in range(0, len(body), UPLOAD_CHUNK_BYTES):
        yield body[at : at + UPLOAD_CHUNK_BYTES]


_users = itertools.count()
_popularity = Zipf(DATASETS, ZIPF)
_download = sample.content(DOWNLOAD_BYTES)
# One long random text; an upload is a piece of it, so that bodies differ and cost nothing to make.
_upload_source = random.Random(SEED).randbytes(2 * UPLOAD_BYTES)


class DataUser(FastHttpUser):
    """One caller of data services."""

    connection_timeout = 10.0
    network_timeout = 60.0
    max_retries = 0  # the proxy's failures are to be seen
    max_redirects = 0

    def __init__(self, environment):  # type: ignore[no-untyped-def]
        super().__init__(environment)
        self._rng = random.Random(f"{SEED}/{next(_users)}")

    def wait_time(self) -> float:
        """Seconds until the next request: exponential, so that users do not fall into step."""
        return self._rng.expovariate(1 / WAIT_S) if WAIT_S > 0 else 0.0

    @task(20)
    def health(self) -> None:
        """A small reply."""
        with self.client.get(f"{PREFIX}/health", name="GET /health", catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")

    @task(40)
    def query(self) -> None:
        """A question about one dataset; popular datasets are asked for more often."""
        dataset = f"dataset-{_popularity.draw(self._rng):04d}"
        with self.client.get(
            f"{PREFIX}/query?dataset={dataset}",
            name="GET /query",
            headers={"X-Dataset-Id": dataset},
            catch_response=True,
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
                return
            said = reply.json()
            if (said.get("dataset"), said.get("result")) != (dataset, sample.query_result(dataset)):
                reply.failure(f"asked for {dataset}, got {said}")

    @task(6)
    def upload(self) -> None:
        """A body by length."""
        self._upload("POST /upload by length", is_chunked=False)

    @task(4)
    def upload_chunked(self) -> None:
        """A body whose length the sender does not say."""
        self._upload("POST /upload chunked", is_chunked=True)

    def _upload(self, name: str, is_chunked: bool) -> None:
        size = self._rng.randint(1, UPLOAD_BYTES)
        start = self._rng.randrange(UPLOAD_BYTES)
        body = _upload_source[start : start + size]
        with self.client.post(
            f"{PREFIX}/upload",
            data=chunks(body) if is_chunked else body,  # type: ignore[arg-type]
            name=name,
            catch_response=True,
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
                return
            said = reply.json()
            if (said.get("bytes"), said.get("sha256")) != (size, hashlib.sha256(body).hexdigest()):
                reply.failure(f"{size} bytes sent, the service has {said}")

    @task(5)
    def download(self) -> None:
        """A large reply."""
        with self.client.get(
            f"{PREFIX}/bytes/{DOWNLOAD_BYTES}", name="GET /bytes/N", catch_response=True
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
                return
            body = reply.content or b""
            if body != _download:
                reply.failure(f"{len(body)} bytes that differ from the {DOWNLOAD_BYTES} asked for")
