"""Contexts: made once for each content, hard by default, and the right one for a name."""

import gc
import ssl
import time
from dataclasses import replace

import pytest
from support.certificates import Authority

from proxy.config.certificates import read_certificate
from proxy.dataplane import tls
from proxy.dataplane.tls import TlsContexts
from proxy.model import TcpAddress
from proxy.snapshot import ClusterSpec, ClusterTlsSpec, ListenerSpec, ListenerTlsSpec, Snapshot
from proxy.tls import certificate_for, client_context, server_context

AUTHORITY = Authority()
ONE = read_certificate(*AUTHORITY.issue("one.example", "*.wild.example"), time.time())
TWO = read_certificate(*AUTHORITY.issue("two.example"), time.time())
LISTENER = ListenerTlsSpec((ONE, TWO))
CLUSTER = ClusterTlsSpec(ca=AUTHORITY.pem)


def snapshot(listener: ListenerTlsSpec | None, cluster: ClusterTlsSpec | None) -> Snapshot:
    return Snapshot(
        generation=1,
        listeners=(ListenerSpec("edge", TcpAddress("127.0.0.1", 0), tls=listener),),
        clusters=(ClusterSpec("etl", tls=cluster),),
        routes=(),
    )


def test_equal_material_has_one_context():
    contexts = TlsContexts()
    contexts.apply(snapshot(LISTENER, CLUSTER))
    server, client = contexts.server(LISTENER), contexts.client(CLUSTER)
    same = replace(LISTENER, certificates=(replace(ONE), replace(TWO)))
    contexts.apply(snapshot(same, replace(CLUSTER)))
    assert contexts.server(same) is server and contexts.client(CLUSTER) is client
    assert repr(contexts) == "TlsContexts(1 for listeners, 1 for clusters)"


def test_one_certificate_of_many_is_made_anew_alone(monkeypatch):
    """A step each, so that whoever takes the steps can do something else in between."""
    made = []
    original = tls.certificate_context
    monkeypatch.setattr(tls, "certificate_context", lambda *of: made.append(of[1]) or original(*of))
    contexts = TlsContexts()
    many = tuple(replace(TWO, names=(f"{number}.example",)) for number in range(50))
    listener = replace(LISTENER, certificates=(ONE, *many))
    steps = contexts.prepare(snapshot(listener, CLUSTER))
    for number in range(50):
        next(steps)
        assert len(made) <= number + 1
    assert len(list(steps)) == 2, "the listener's own, and the cluster's"
    contexts.apply(snapshot(listener, CLUSTER))
    other = replace(
        listener, certificates=(ONE, *many[:20], replace(TWO, names=("new.example",)), *many[21:])
    )
    made.clear()
    assert len(list(contexts.prepare(snapshot(other, CLUSTER)))) == 2
    contexts.apply(snapshot(other, CLUSTER))
    assert [each.names for each in made] == [("new.example",)]
    assert list(contexts.prepare(snapshot(other, CLUSTER))) == []


def test_what_no_snapshot_has_is_forgotten():
    contexts = TlsContexts()
    contexts.apply(snapshot(LISTENER, CLUSTER))
    contexts.apply(snapshot(replace(LISTENER, certificates=(TWO,)), None))
    assert repr(contexts) == "TlsContexts(1 for listeners, 0 for clusters)"
    contexts.apply(snapshot(None, None))
    gc.collect()
    assert repr(contexts) == "TlsContexts(0 for listeners, 0 for clusters)"


def test_material_that_cannot_be_used_changes_nothing():
    contexts = TlsContexts()
    contexts.apply(snapshot(LISTENER, None))
    server = contexts.server(LISTENER)
    broken = replace(LISTENER, certificates=(replace(ONE, key=TWO.key),))
    with pytest.raises(ssl.SSLError):
        contexts.apply(snapshot(broken, None))
    assert contexts.server(LISTENER) is server


def test_both_ends_are_hard_by_default():
    for context in (server_context(LISTENER), client_context(CLUSTER)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_NO_COMPRESSION
        suites = [each for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"]
        assert suites and all(each["aead"] and each["kea"] == "kx-ecdhe" for each in suites)
    assert client_context(CLUSTER).verify_mode is ssl.CERT_REQUIRED
    assert client_context(CLUSTER).check_hostname


def test_tickets_can_be_switched_off():
    context = server_context(replace(LISTENER, session_tickets=False))
    assert context.num_tickets == 0 and context.options & ssl.OP_NO_TICKET


@pytest.mark.parametrize(
    "name, found",
    [
        ("one.example", 1),
        ("ONE.example.", 1),
        ("a.wild.example", 1),
        ("b.a.wild.example", 0),
        ("wild.example", 0),
        ("two.example", 2),
        ("xn--bcher-kva.example", 3),
        ("", 0),
        ("localhost", 0),
    ],
)
def test_the_context_for_a_name(name, found):
    made = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(4)]
    names = ("one.example", "*.wild.example", "two.example", "xn--bcher-kva.example")
    by_name = dict(zip(names, (made[1], made[1], made[2], made[3]), strict=True))
    assert certificate_for(by_name, name, made[0]) is made[found]
