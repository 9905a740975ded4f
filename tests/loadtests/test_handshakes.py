"""The client of the handshake row: every request on a connection of its own, and only whole replies count."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.origin import OK, Origin

from loadtests.peers.certificate import write_certificate
from loadtests.peers.handshakes import load
from loadtests.peers.rows import BY_NAME
from loadtests.peers.verify import check_row


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Origin]:
    write_certificate(tmp_path / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem")
    origin = Origin(tls=context)
    yield origin
    origin.stop()


def test_a_connection_for_each_request(server: Origin) -> None:
    server.on("/tiny", lambda one: (one.send(OK), one.close())[0])
    said = load(server.port, BY_NAME["handshakes"].request(), 0.5, 3)
    assert said["errors"] == {} and said["requests"] == server.connections >= 3
    assert said["bytes"] == server.connections * len(OK)


def test_what_is_no_success_is_an_error(server: Origin) -> None:
    server.on("/tiny", lambda one: (one.reply(503), one.close())[0])
    assert load(server.port, BY_NAME["handshakes"].request(), 0.2, 1)["errors"]["status"] >= 1  # type: ignore[index]


def test_replies_are_checked_over_tls(server: Origin) -> None:
    server.on("/tiny", lambda one: (one.reply(200, b"ok\n"), one.close())[0])
    assert check_row(BY_NAME["tls"], server.port) == []
