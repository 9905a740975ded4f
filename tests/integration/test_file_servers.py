"""The main job on real input: two `python -m http.server` endpoints with files of many sizes, fetched by
curl while one endpoint stops and starts."""

import hashlib
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import settings
from support.daemon import Daemon, StartDaemon, free_port
from support.wait import wait_for

SIZES = [0, 1, 100, 4096, 65_535, 65_536, 1_000_003, 20_000_000]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class FileServer:
    """`python -m http.server` over a folder, on a fixed port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "http.server",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "-d",
                str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._is_open, "the file server to listen")

    def _is_open(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name and sha256 of each file; the folder is under the key of its own."""
    folder = tmp_path_factory.mktemp("files")
    digests = {"": str(folder)}
    for size in SIZES:
        data = random.Random(size).randbytes(size)
        (folder / f"{size}.bin").write_bytes(data)
        digests[f"{size}.bin"] = hashlib.sha256(data).hexdigest()
    return digests


@pytest.fixture(scope="module")
def servers(files: dict[str, str]) -> Iterator[list[FileServer]]:
    pair = [FileServer(Path(files[""])) for _ in range(2)]
    yield pair
    for server in pair:
        server.stop()


@pytest.fixture(scope="module")
def front(module_daemon: StartDaemon, servers: list[FileServer]) -> Iterator[Daemon]:
    daemon = module_daemon(settings.simple(*(f"127.0.0.1:{server.port}" for server in servers)))
    yield daemon
    daemon.stop()


def curl(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["curl", "-sS", "--max-time", "20", *arguments], capture_output=True, check=False)


def url(daemon: Daemon, name: str) -> str:
    host, port = daemon.address()
    return f"http://{host}:{port}/{name}"


def test_every_size(front: Daemon, files: dict[str, str], tmp_path: Path) -> None:
    """Files of every size, twice each over kept connections: checksums agree."""
    names = [name for name in files if name] * 2
    outputs = [tmp_path / f"{number}" for number in range(len(names))]
    arguments = [
        part for name, out in zip(names, outputs, strict=True) for part in ("-o", str(out), url(front, name))
    ]
    done = curl(front, *arguments)
    assert done.returncode == 0, done.stderr
    for name, out in zip(names, outputs, strict=True):
        assert hashlib.sha256(out.read_bytes()).hexdigest() == files[name]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_versions_of_curl(front: Daemon, files: dict[str, str], version: str) -> None:
    """curl speaks HTTP/1.0, 1.1, and offers h2c, which is ignored."""
    done = curl(front, version, url(front, "65536.bin"))
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == files["65536.bin"]


def test_head_and_missing(front: Daemon, files: dict[str, str]) -> None:
    """HEAD and 404 come from the endpoint."""
    done = curl(front, "-I", url(front, "1000003.bin"))
    assert b"content-length: 1000003" in done.stdout.lower()
    assert curl(front, "-o", "/dev/null", "-w", "%{http_code}", url(front, "missing")).stdout == b"404"


def test_endpoint_stopped_and_started(
    front: Daemon, servers: list[FileServer], files: dict[str, str], tmp_path: Path
) -> None:
    """While one endpoint is down each answer is right or a 502, never wrong bytes; afterwards all is well
    again."""

    def fetch(name: str, number: int) -> int:
        out = tmp_path / f"{name}-{number}"
        done = curl(front, "-o", str(out), "-w", "%{http_code}", url(front, name))
        status = int(done.stdout)
        assert done.returncode == 0, done.stderr
        if status == 200:
            assert hashlib.sha256(out.read_bytes()).hexdigest() == files[name]
        return status

    names = ["4096.bin", "1000003.bin"]
    servers[0].stop()
    during = [fetch(name, number) for number in range(5) for name in names]
    assert set(during) <= {200, 502}
    assert 200 in during
    servers[0].start()
    assert [fetch(name, number) for number in range(5) for name in names] == [200] * 10
