"""TLS settings: the files they name, what is wrong with them and where, and what they come to."""

import os
import time
from pathlib import Path

import pytest
from support.certificates import Authority

from proxy.config import material
from proxy.config.build import build_snapshot
from proxy.config.certificates import read_certificate
from proxy.config.faults import BadValue, InvalidConfig
from proxy.config.load import load_bytes, load_file
from proxy.config.material import TlsMaterial, material_of, tls_sections
from proxy.config.schema import Config
from proxy.config.slots import Slots
from proxy.model import TcpAddress
from proxy.snapshot import ListenerTlsSpec

EXAMPLES = Path(__file__).parents[2] / "config"
DAY_S = 86400.0

AUTHORITY = Authority()
OTHER = Authority("other")
INTERMEDIATE = Authority("intermediate", AUTHORITY)
CERT, KEY = AUTHORITY.issue("a.example", "*.b.example", "10.0.0.1")
LONG_CERT, LONG_KEY = INTERMEDIATE.issue("long.example", chain=INTERMEDIATE.pem)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what is right and with much that is not."""
    expired, old_key = AUTHORITY.issue("old.example", days=(-9, -2))
    early, early_key = AUTHORITY.issue("early.example", days=(2, 9))
    lone, lone_key = INTERMEDIATE.issue("long.example")
    content = {
        "good.crt": CERT,
        "good.key": KEY,
        "both.pem": CERT + KEY,
        "long.crt": LONG_CERT,
        "long.key": LONG_KEY,
        "turned.crt": INTERMEDIATE.pem + lone,
        "turned.key": lone_key,
        "torn.crt": lone + AUTHORITY.pem + INTERMEDIATE.pem,
        "expired.crt": expired,
        "expired.key": old_key,
        "early.crt": early,
        "early.key": early_key,
        "encrypted.key": AUTHORITY.issue("a.example", password=b"secret")[1],
        "other.key": AUTHORITY.issue("a.example")[1],
        "noise.pem": b"not PEM at all",
        "broken.crt": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "ca.crt": AUTHORITY.pem,
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def text_of(listener_tls: str = "", cluster_tls: str = "", route: str = "cluster: etl") -> str:
    listener = f", tls: {listener_tls}" if listener_tls else ""
    cluster = f"\n    tls: {cluster_tls}" if cluster_tls else ""
    return f"""\
listeners: [{{name: edge, bind: "127.0.0.1:8443"{listener}}}, {{name: plain, bind: "127.0.0.1:8080"}}]
clusters:
  - name: etl
    endpoints: [{{address: "127.0.0.1:9001"}}, {{address: "query-1:9001"}}]{cluster}
routes: [{{match: {{path_prefix: /}}, {route}}}]
"""


def faults_of(text: str, folder: Path) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load_bytes(text.encode(), "f", folder, {})
    return [str(fault).partition(": ")[2] for fault in caught.value.faults]


def pair(cert: str, key: str) -> str:
    return f"{{certificates: [{{cert: {cert}, key: {key}}}]}}"


FIRST = "listeners[0].tls.certificates[0]"
A_CHAIN = "expected a certificate in PEM form, followed by the certificates that sign it"
A_KEY = "expected the certificate's private key in PEM form, without a password"


@pytest.mark.parametrize(
    "cert, key, fault",
    [
        ("none.crt", "good.key", f"{FIRST}.cert: cannot be read (no such file or directory), got 'none.crt'"),
        ("good.crt", "none.key", f"{FIRST}.key: cannot be read (no such file or directory), got 'none.key'"),
        (".", "good.key", f"{FIRST}.cert: is a directory, got '.'"),
        ("noise.pem", "good.key", f"{FIRST}.cert: holds no certificate in PEM form, got 'noise.pem', {A_CHAIN}"),
        ("broken.crt", "good.key", f"{FIRST}.cert: holds a certificate that cannot be read, got 'broken.crt'"),
        ("good.crt", "noise.pem", f"{FIRST}.key: holds no private key that can be used, got 'noise.pem'"),
        ("good.crt", "encrypted.key", f"{FIRST}.key: is encrypted, got 'encrypted.key', {A_KEY}"),
        ("good.crt", "other.key", f"{FIRST}.key: is not the key of the certificate, got 'other.key', {A_KEY}"),
        ("expired.crt", "expired.key", f"{FIRST}.cert: expired on "),
        ("early.crt", "early.key", f"{FIRST}.cert: is not valid before "),
        ("turned.crt", "turned.key", f"{FIRST}.cert: has its own certificate at place 2, not first"),
        ("torn.crt", "turned.key", f"{FIRST}.cert: is not in order: certificate 2 did not sign certificate 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_certificate_is_told_at_its_key(folder, cert, key, fault):
    (found,) = faults_of(text_of(pair(cert, key)), folder)
    assert found.startswith(fault)


def test_an_unreadable_file_is_told(folder):
    os.mkfifo(folder / "fifo")
    (found,) = faults_of(text_of(pair("fifo", "good.key")), folder)
    assert found.startswith(f"{FIRST}.cert: is not a regular file")


def test_all_faults_are_told_at_once_with_their_places(folder):
    text = text_of(
        "{certificates: [{cert: none.crt, key: good.key}, {cert: good.crt, key: other.key}]}",
        "{ca: noise.pem}",
    )
    with pytest.raises(InvalidConfig) as caught:
        load_bytes(text.replace("etl}", "elt}").encode(), "f", folder, {})
    paths = [(fault.line, fault.path) for fault in caught.value.faults]
    assert paths == [
        (1, f"{FIRST}.cert"),
        (1, "listeners[0].tls.certificates[1].key"),
        (5, "clusters[0].tls.ca"),
        (6, "routes[0].cluster"),
    ]


@pytest.mark.parametrize(
    "tls, fault",
    [
        ("~", "tls: is empty"),
        ("{certificates: []}", "tls.certificates: has too few or too many items"),
        ("{}", "tls.certificates: is missing"),
        ("{certificates: [{cert: good.crt}]}", "tls.certificates[0].key: is missing"),
        ("{%s, client_auth: required}", "tls.client_ca: is missing with client_auth required"),
        ("{%s, client_auth: sometimes}", "tls.client_auth: is not known, got 'sometimes'"),
        ("{%s, client_ca: ca.crt}", "tls.client_ca: has no effect without client_auth"),
        ("{%s, client_auth: optional, client_ca: }", "tls.client_ca: is empty"),
        ("{%s, forward_client_cert: true}", "tls.forward_client_cert: has no effect without client_auth"),
        (
            "{%s, client_auth: optional, client_ca: good.key}",
            "tls.client_ca: holds no certificate in PEM form",
        ),
        ("{%s, client_auth: optional, client_ca: expired.crt}", "tls.client_ca: expired on"),
        ("{%s, min_version: 1.1}", "tls.min_version: is not known"),
        ("{%s, ciphers: NOTHING}", "tls.ciphers: names no suite that is known"),
        ("{%s, ciphers: eNULL}", "tls.ciphers: "),
        ("{%s, ciphers: 'DEFAULT:@SECLEVEL=0'}", "tls.ciphers: changes OpenSSL's security level"),
        ("{%s, min_version: 1.3, ciphers: ECDHE+AESGCM}", "tls.ciphers: has no effect with min_version 1.3"),
        ("{%s, certificate: x}", "tls.certificate: is not a known key"),
    ],
)
def test_the_settings_of_a_listener(folder, tls, fault):
    found = faults_of(text_of(tls.replace("%s", "certificates: [{cert: good.crt, key: good.key}]")), folder)
    assert any(each.startswith(f"listeners[0].{fault}") for each in found), found


@pytest.mark.parametrize(
    "tls, fault",
    [
        ("", "tls: is empty"),
        ("{verify: false, ca: ca.crt}", "tls.ca: has no effect with verify false"),
        ("{ca: ca.crt, cert: good.crt}", "tls.cert: is there without key"),
        ("{ca: ca.crt, key: good.key}", "tls.key: is there without cert"),
        ("{ca: ca.crt, cert: good.crt, key: other.key}", "tls.key: is not the key of the certificate"),
        ("{ca: ca.crt, cert: expired.crt, key: expired.key}", "tls.cert: expired on"),
        ("{ca: none.crt}", "tls.ca: cannot be read"),
        ("{ca: }", "tls.ca: is empty"),
        ("{ca: ca.crt, server_name: a b}", "tls.server_name: is not a valid name"),
    ],
)
def test_the_settings_of_a_cluster(folder, tls, fault):
    text = text_of(cluster_tls=tls or "~")
    assert any(each.startswith(f"clusters[0].{fault}") for each in faults_of(text, folder))


def test_an_endpoint_without_a_name_needs_one_in_the_settings(folder):
    text = text_of(cluster_tls="{ca: ca.crt}").replace("query-1:9001", "unix:/run/x.sock")
    (found,) = faults_of(text, folder)
    assert found.startswith(
        "clusters[0].tls.server_name: is missing, though clusters[0].endpoints[1] is a Unix"
    )
    for tls in ("{ca: ca.crt, server_name: x.example}", "{verify: false}"):
        load_bytes(text.replace("{ca: ca.crt}", tls).encode(), "f", folder, {})


@pytest.mark.parametrize(
    "route, circle",
    [
        ("redirect: {scheme: https}", "edge"),
        ("redirect: {scheme: http}", "plain"),
        ("redirect: {scheme: https, host: a.example}", None),
        ("redirect: {scheme: https, path: /other}", None),
    ],
)
def test_a_redirect_in_circles_is_a_fault(folder, route, circle):
    text = text_of(pair("good.crt", "good.key"), route=route)
    if circle is None:
        load_bytes(text.encode(), "f", folder, {})
        return
    (found,) = faults_of(text, folder)
    assert found.startswith(f"routes[0].redirect.scheme: sends requests of listener {circle} back")
    elsewhere = {"edge": "plain", "plain": "edge"}[circle]
    load_bytes(text.replace("{path_prefix: /}", f"{{listener: {elsewhere}}}").encode(), "f", folder, {})


def test_authorities_are_loaded_once_for_all_certificates(folder, monkeypatch):
    """A long list of them takes OpenSSL 30 ms."""
    tried = []
    original = material.server_context
    monkeypatch.setattr(material, "server_context", lambda spec: tried.append(spec) or original(spec))
    both = "{cert: good.crt, key: good.key}, {cert: both.pem, key: both.pem}"
    tls = f"{{certificates: [{both}], client_auth: optional, client_ca: ca.crt}}"
    load_bytes(text_of(tls).encode(), "f", folder, {})
    assert [len(each.certificates) for each in tried] == [1, 1, 1]
    assert [each.client_ca != b"" for each in tried] == [False, False, True]


def test_the_clock_decides_what_is_valid(folder):
    text = text_of(pair("expired.crt", "expired.key"))
    load_bytes(text.encode(), "f", folder, {}, lambda: time.time() - 4 * DAY_S)
    late = text_of(pair("good.crt", "good.key")).encode()
    with pytest.raises(InvalidConfig, match="expired on"):
        load_bytes(late, "f", folder, {}, lambda: time.time() + 31 * DAY_S)


def read_all(config: Config, now: float) -> TlsMaterial:
    return material_of({section: section.read(now) for section in tls_sections(config)})


def test_a_snapshot_has_all_that_a_worker_needs(folder):
    tls = """{certificates: [{cert: good.crt, key: good.key}, {cert: long.crt, key: long.key},
      {cert: both.pem, key: both.pem}], client_auth: optional, client_ca: ca.crt, min_version: 1.3}"""
    text = text_of(tls, "{ca: ca.crt, cert: good.crt, key: good.key}")
    config = load_bytes(text.encode(), "f", folder, {})
    now = time.time()
    material = read_all(config, now)
    snapshot = build_snapshot(
        config,
        generation=1,
        resolved={"query-1:9001": [TcpAddress("10.0.0.9", 9001)]},
        slots=Slots(),
        material=material,
    )
    secure, plain = snapshot.listeners
    assert plain.tls is None and secure.tls is not None
    assert [each.names for each in secure.tls.certificates] == [
        ("a.example", "*.b.example", "10.0.0.1"),
        ("long.example",),
        ("a.example", "*.b.example", "10.0.0.1"),
    ]
    assert secure.tls.certificates[1].chain == LONG_CERT
    assert 29 * DAY_S < secure.tls.certificates[0].expires_at - now <= 30 * DAY_S
    assert (secure.tls.client_auth, secure.tls.client_ca, secure.tls.min_version) == (
        "optional",
        AUTHORITY.pem,
        "1.3",
    )
    (cluster,) = snapshot.clusters
    assert cluster.tls is not None and cluster.tls.ca == AUTHORITY.pem and cluster.tls.verify
    assert cluster.tls.certificate is not None and cluster.tls.certificate.key == KEY
    assert [each.server_name for each in cluster.endpoints] == ["127.0.0.1", "query-1"]


def test_the_configured_name_goes_before_the_endpoints_own(folder):
    config = load_bytes(
        text_of(cluster_tls="{ca: ca.crt, server_name: A.Example.}").encode(), "f", folder, {}
    )
    material = read_all(config, time.time())
    snapshot = build_snapshot(config, generation=1, resolved={}, slots=Slots(), material=material)
    assert [each.server_name for each in snapshot.clusters[0].endpoints] == ["a.example"]


def test_a_snapshot_shows_no_key():
    spec = ListenerTlsSpec((read_certificate(CERT, KEY, time.time()),), client_ca=AUTHORITY.pem)
    assert "PRIVATE" not in repr(spec) and "BEGIN" not in repr(spec)


def test_a_chain_may_end_in_its_root_and_an_expired_link_is_told():
    cert, key = INTERMEDIATE.issue("x.example", chain=INTERMEDIATE.pem + AUTHORITY.pem)
    assert read_certificate(cert, key, time.time()).names == ("x.example",)
    cert, key = INTERMEDIATE.issue("x.example", days=(-1, 400), chain=INTERMEDIATE.pem)
    with pytest.raises(BadValue, match="has certificate 2, which expired on"):
        read_certificate(cert, key, time.time() + 100 * DAY_S)


def test_the_example_is_clean_beside_its_files(tmp_path):
    (tmp_path / "tls").mkdir()
    AUTHORITY.write_ca(tmp_path / "tls")
    for name, san in (
        ("www.example.com", "www.example.com"),
        ("wildcard.example.org", "*.example.org"),
        ("homeport", "homeport"),
    ):
        cert, key = AUTHORITY.issue(san)
        (tmp_path / "tls" / f"{name}.crt").write_bytes(cert)
        (tmp_path / "tls" / f"{name}.key").write_bytes(key)
    (tmp_path / "tls.yaml").write_bytes((EXAMPLES / "tls.yaml").read_bytes())
    config = load_file(tmp_path / "tls.yaml", {})
    assert config.listeners[0].tls is not None and config.clusters[0].tls is not None
