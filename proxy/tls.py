"""From TLS material to the contexts that connections are made with.

Control builds them once to see that the material is usable, each worker builds them to serve; nothing else is needed
than what the specification holds, so a worker reads no file. OpenSSL's library function for certificates takes paths
alone: the PEM text is put into anonymous memory that has one.

What is switched off, and why: everything below TLS 1.2 (RFC 8996), TLS 1.2 suites without forward secrecy or without
authenticated encryption (RFC 9325 4.2), renegotiation and compression (RFC 9325 3.4 and 3.3). The only protocol that
ALPN agrees on is HTTP/1.1, the only one spoken here.
"""

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proxy.snapshot import CertificateSpec, ClusterTlsSpec, ListenerTlsSpec

# Those of TLS 1.3 cannot be chosen in Python's ssl; all of them are good.
DEFAULT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_PROTOCOLS = ["http/1.1"]


def server_context(spec: ListenerTlsSpec, others: Sequence[ssl.SSLContext] | None = None) -> ssl.SSLContext:
    """The context of a listener, which answers with the certificate for the name that a client asks for.

    `others` are `certificate_context` of all certificates but the first, if they are there already. Raises
    `ssl.SSLError` or `ValueError` for material that cannot be used.
    """
    if others is None:
        others = [certificate_context(spec, certificate) for certificate in spec.certificates[1:]]
    # Of this listener alone, because of what chooses.
    first = certificate_context(spec, spec.certificates[0])
    if others:
        by_name: dict[str, ssl.SSLContext] = {}
        for certificate, context in zip(spec.certificates, (first, *others), strict=True):
            for name in certificate.names:
                by_name.setdefault(name, context)

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name is not None:
                connection.context = certificate_for(by_name, name, first)

        first.sni_callback = choose
    return first


def certificate_for(by_name: dict[str, ssl.SSLContext], name: str, default: ssl.SSLContext) -> ssl.SSLContext:
    """What serves `name`: the exact name before the wildcard of its parent (RFC 6125 6.4.3), else `default`."""
    name = name.lower().removesuffix(".")
    found = by_name.get(name)
    if found is None:
        _, dot, parent = name.partition(".")
        found = by_name.get(f"*.{parent}") if dot else None
    return default if found is None else found


def certificate_context(spec: ListenerTlsSpec, certificate: CertificateSpec) -> ssl.SSLContext:
    """The context for one certificate of a listener. Raises `ssl.SSLError` or `ValueError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, spec.min_version, spec.ciphers)
    _load_certificate(context, certificate)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_SINGLE_ECDH_USE
    if not spec.session_tickets:
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    if spec.client_auth != "none":
        context.verify_mode = _CLIENT_AUTH[spec.client_auth]
        _load_authorities(context, spec.client_ca)
    return context


def client_context(spec: ClusterTlsSpec) -> ssl.SSLContext:
    """The context for connections to a cluster's endpoints. Raises `ssl.SSLError` or `ValueError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, spec.min_version, "")
    if spec.verify:
        _load_authorities(context, spec.ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if spec.certificate is not None:
        _load_certificate(context, spec.certificate)
    return context


def _harden(context: ssl.SSLContext, min_version: str, ciphers: str) -> None:
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(ciphers or DEFAULT_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_PROTOCOLS)


def _load_certificate(context: ssl.SSLContext, certificate: CertificateSpec) -> None:
    with _memory_file(certificate.chain + b"\n" + certificate.key) as path:
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(path, password="")


def _load_authorities(context: ssl.SSLContext, pem: bytes) -> None:
    # What the operator names is trusted as it is: also an intermediate, or an endpoint's own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with _memory_file(pem) as path:
        context.load_verify_locations(path)


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path under which `content` can be read while the block runs; it never reaches a disk."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
