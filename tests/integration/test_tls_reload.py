"""Certificate files that change while the daemon runs."""

import re
import ssl
from pathlib import Path

from support import settings
from support.certificates import Authority
from support.client import Client
from support.daemon import Daemon, StartDaemon
from support.origin import Origin
from support.wait import wait_for


def served_name(daemon: Daemon, context: ssl.SSLContext) -> str:
    """Whom the certificate names that a new connection gets."""
    with Client(daemon.address(), tls=context) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = client.sock.getpeercert()
        assert certificate is not None
        return str(certificate["subjectAltName"][0][1])


def metric(daemon: Daemon, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", daemon.admin("/metrics")[1].decode(), re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def expiry(name: str) -> str:
    labels = f'certificate="{name}",kind="listener",name="plain",position="0"'
    return f"homeport_certificate_expiry_timestamp_seconds{{{labels}}}"


def test_replaced_files(start_daemon: StartDaemon, origin: Origin, path: str, tmp_path: Path) -> None:
    """New connections get the new certificate, those that are there stay, and wrong files change nothing."""
    authority = Authority()
    context = ssl.create_default_context(cafile=authority.write_ca(tmp_path))
    context.check_hostname = False
    files = authority.write(tmp_path, "one.example")
    config = settings.simple(origin.address)
    config["listeners"] = [settings.listener(tls={"certificates": [files.config()]})]
    daemon = start_daemon(config)
    assert served_name(daemon, context) == "one.example"
    assert metric(daemon, expiry("one.example")) > 0
    with Client(daemon.address(), tls=context) as early:
        early.assert_open(path)
        cert, key = authority.issue("two.example", days=(-1, 60))
        files.cert.write_bytes(cert)
        wait_for(lambda: metric(daemon, "homeport_certificates_failing") == 1, "the fault to be seen")
        assert served_name(daemon, context) == "one.example"
        files.key.write_bytes(key)
        wait_for(lambda: served_name(daemon, context) == "two.example", "the new certificate")
        early.assert_open(path)
    wait_for(lambda: metric(daemon, "homeport_certificates_failing") == 0, "the fault to be over")
    assert metric(daemon, "homeport_certificate_reloads_total") == 1
    assert metric(daemon, expiry("two.example")) > 0
    daemon.stop()
