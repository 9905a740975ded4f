"""A real browser behind the proxy: a page with all that browsers ask servers for, over plain text and over TLS.

The page checks every byte that it gets itself, and says what was wrong. Skipped when no Chromium is installed.
"""

import base64
import hashlib
from pathlib import Path

import pytest
from busysite import KINDS, Site, dump
from chromium import Chromium, find_chromium
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import settings
from support.certificates import Authority, Files
from support.daemon import Daemon, StartDaemon
from support.wait import wait_for

pytestmark = pytest.mark.browser

ATTEMPTS = 5
"""Pages loaded on a machine whose network changes meanwhile."""


@pytest.fixture(scope="module")
def browser() -> str:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed")
    return path


def public_key_hash(files: Files) -> str:
    """SHA-256 of a certificate's public key, as Chromium takes it."""
    key = x509.load_pem_x509_certificate(files.cert.read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


def start(start_daemon: StartDaemon, site: Site, files: Files | None) -> tuple[Daemon, str]:
    """A daemon with two workers before the site, and the URL of the page behind it."""
    config = settings.simple(site.address, workers=2)
    if files is not None:
        config["listeners"][0]["tls"] = {"certificates": [files.config()]}
    daemon = start_daemon(config)
    scheme = "http" if files is None else "https"
    return daemon, f"{scheme}://{config['listeners'][0]['bind']}/"


class NetworkChanged(Exception):
    """The browser gave up its connections, as it does when an interface of the machine comes or goes: a container's,
    for instance."""


def work(chromium: Chromium, site: Site) -> None:
    """Wait for the page's verdict on what it got, and see that nothing failed besides."""
    wait_for(lambda: chromium.evaluate("typeof window.report") == "object", "the page")
    report = chromium.evaluate("window.report")
    failed = [each for each in chromium.heard("Network.loadingFailed") if not each.get("canceled")]
    if any(each["errorText"] == "net::ERR_NETWORK_CHANGED" for each in failed):
        raise NetworkChanged
    replies = [each["response"] for each in chromium.heard("Network.responseReceived")]
    refused = [(each["status"], each["url"]) for each in replies if each["status"] >= 400]
    assert {status for status, _ in refused} == {416}, dump(refused)
    wrong = {name: text for name, text in report.items() if text}
    assert (wrong, failed) == ({}, []), dump([wrong, failed])
    assert len(report) == 17
    assert chromium.heard("Runtime.exceptionThrown") == []
    assert site.aborted.wait(15), "the endless answer goes on without a reader"
    assert {each.get("protocol") for each in replies} <= {"http/1.1", "data"}, dump(replies)


def load_twice(chromium: Chromium, site: Site, url: str) -> None:
    """Load the page into an empty cache, then have the browser ask for everything again."""
    chromium.command("Page.navigate", url=url)
    work(chromium, site)
    assert any(one.startswith("bytes=0-") for one in site.ranges)
    statuses = {status for path, status in site.asked if path.startswith("/asset/")}
    assert 200 in statuses and statuses <= {200, 304}

    site.asked.clear()
    site.aborted.clear()
    chromium.evaluate("delete window.report")
    chromium.command("Page.reload")
    work(chromium, site)
    # Nothing had changed, and the browser had everything: only revalidation. HEAD was told to pass the cache by.
    again = [(path, status) for path, status in site.asked if path.startswith("/asset/")]
    assert {path for path, _ in again} == set(site.assets) and len(site.assets) == sum(KINDS.values())
    assert [path for path, status in again if status != 304] == ["/asset/0.js"]
    wait_for(lambda: len(site.beacons) == 2, "two beacons")
    assert set(site.beacons) == {b"on its way"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_loads_and_loads_again(
    browser: str, start_daemon: StartDaemon, tmp_path: Path, scheme: str
) -> None:
    files = Authority().write(tmp_path, "127.0.0.1") if scheme == "https" else None
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        site = Site(folder)
        try:
            daemon, url = start(start_daemon, site, files)
            with Chromium(browser, folder, public_key_hash(files) if files else None) as chromium:
                load_twice(chromium, site, url)
            daemon.stop()
            return
        except NetworkChanged:
            continue
        finally:
            site.stop()
    pytest.skip("this machine's network changes all the time")
