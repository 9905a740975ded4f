"""The sample data service as its users meet it: a process on a free port."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest

from proxy.demo import sample

LIMIT_S = 30
SERVICE = [sys.executable, "-m", "proxy.demo.service", "--port", "0"]


class Service:
    """A running service and a client of it."""

    def __init__(self, process):
        self.process = process
        self.announced = json.loads(process.stdout.readline())

    def request(self, method, path, body=None, chunked=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.announced["port"], timeout=LIMIT_S)
        with closing(connection):
            connection.request(method, path, body, encode_chunked=chunked)
            response = connection.getresponse()
            return response, response.read()

    def get_json(self, path):
        response, body = self.request("GET", path)
        assert response.status == 200
        return json.loads(body)


@contextmanager
def running(*arguments):
    with subprocess.Popen([*SERVICE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield Service(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service():
    with running("--name", "data-7") as started:
        yield started


def test_announces_its_address(service):
    assert service.announced == {"service": "data-7", "host": "127.0.0.1", "port": service.announced["port"]}
    assert service.announced["port"] > 0


def test_health_names_the_service(service):
    pid = service.process.pid
    assert service.get_json("/health") == {"service": "data-7", "status": "ok", "pid": pid}


def test_query_depends_on_the_dataset_alone(service):
    orders = service.get_json("/query?dataset=orders")
    assert orders == {"service": "data-7", "dataset": "orders", "result": sample.query_result("orders")}
    assert service.get_json("/query?dataset=orders&think_ms=1") == orders
    assert service.get_json("/query?dataset=clicks")["result"] != orders["result"]


def test_a_query_fetches_what_is_not_held():
    largest = max(sample.dataset_bytes(name) for name in "abc")
    with running("--cache", str(largest * 2), "--bandwidth", "1e12") as started:
        assert [_found(started, name) for name in "aab"] == ["miss", "hit", "miss"]
    with running("--cache", "0", "--bandwidth", "1e12") as started:
        assert [_found(started, name) for name in "aa"] == ["miss", "miss"]


def _found(service, dataset):
    response, _ = service.request("GET", f"/query?dataset={dataset}")
    return response.headers["X-Data-Cache"]


def test_datasets_have_sizes_of_their_own():
    sizes = [sample.dataset_bytes(f"set-{number}") for number in range(100)]
    assert len(set(sizes)) == 100
    assert 8 << 20 <= min(sizes) and max(sizes) < 40 << 20


@pytest.mark.parametrize("option", [("--slots", "0"), ("--cache", "-1"), ("--bandwidth", "0")])
def test_resources_that_make_no_sense_are_refused(option):
    done = subprocess.run([*SERVICE, *option], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert "expected --slots of at least 1" in done.stderr


@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 3_000_000])
def test_bytes_are_the_sample_content(service, length):
    response, body = service.request("GET", f"/bytes/{length}")
    assert response.status == 200
    assert response.headers["Content-Length"] == str(length)
    assert response.headers["X-Service"] == "data-7"
    assert hashlib.sha256(body).hexdigest() == sample.digest(length)


def test_head_has_the_length_and_no_body(service):
    response, body = service.request("HEAD", f"/bytes/{sample.MAX_BYTES}")
    assert (response.status, response.headers["Content-Length"], body) == (200, str(sample.MAX_BYTES), b"")
    assert service.request("HEAD", "/health")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [0, 200_000])
def test_upload_answers_length_and_checksum(service, method, chunked, length):
    body = sample.content(length)
    response, answer = service.request(method, "/upload", iter([body]) if chunked else body, chunked)
    assert response.status == 200
    assert json.loads(answer) == {"bytes": length, "sha256": hashlib.sha256(body).hexdigest()}


def test_slow_answers_after_its_time(service):
    assert service.get_json("/slow/1") == {"service": "data-7", "slept_ms": 1}


@pytest.mark.parametrize(
    "path",
    ["/query", "/query?dataset=" + "x" * 129, "/query?dataset=a&think_ms=-1", "/slow/600001", "/bytes/1x"]
    + [f"/bytes/{sample.MAX_BYTES + 1}", "/bytes/" + "9" * 5000],
)
def test_what_is_out_of_range_is_refused(service, path):
    response, body = service.request("GET", path)
    assert response.status == 400
    assert "expected" in json.loads(body)["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_order_on_a_signal(number):
    with running() as started:
        started.process.send_signal(number)
        assert started.process.wait(LIMIT_S) == 0
        assert started.process.stderr.read() == b""


def test_a_request_under_way_is_finished_on_sigterm():
    with running() as started:
        connection = http.client.HTTPConnection("127.0.0.1", started.announced["port"], timeout=LIMIT_S)
        with closing(connection):
            connection.request("GET", f"/bytes/{64 << 20}")
            response = connection.getresponse()  # more than socket buffers hold, so it is under way
            started.process.terminate()
            assert hashlib.sha256(response.read()).hexdigest() == sample.digest(64 << 20)
        assert started.process.wait(LIMIT_S) == 0


def test_an_idle_connection_does_not_keep_it():
    with running() as started:
        connection = http.client.HTTPConnection("127.0.0.1", started.announced["port"], timeout=LIMIT_S)
        with closing(connection):
            connection.request("GET", "/health")
            connection.getresponse().read()
            started.process.terminate()
            assert connection.sock.recv(1) == b""
        assert started.process.wait(LIMIT_S) == 0


def test_ends_with_its_parent():
    # The parent hands its stdout on, so the pipe reaches its end only when the service has ended too.
    code = f"import subprocess, time; subprocess.Popen({SERVICE!r}); time.sleep({LIMIT_S})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert json.loads(parent.stdout.readline())["port"] > 0
        parent.kill()
        assert parent.stdout.read() == b""


def test_says_why_it_cannot_listen():
    with running() as started:
        taken = str(started.announced["port"])
        second = subprocess.run([*SERVICE, "--port", taken], capture_output=True, text=True, timeout=LIMIT_S)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken}" in second.stderr
    assert "Traceback" not in second.stderr


def test_content_has_one_period_across_chunks():
    whole = sample.content(300_000)
    assert len(whole) == 300_000
    assert whole[:100_000] == sample.content(100_000)
    assert whole[65_521:131_042] == whole[:65_521]
    assert whole[65_536:131_072] != whole[:65_536]
    assert os.path.commonprefix([whole[1:], whole]) != whole[1:]
