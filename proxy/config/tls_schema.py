"""The models of TLS: on listeners, and to the endpoints of a cluster. See `schema`.

Files are paths, relative to the configuration file; what they hold is read and judged by `material`.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from proxy.config.kinds import Ciphers, ClientAuth, File, Flag, ServerName, TlsVersion, fault_error
from proxy.config.section import Section

# A context of some 50 KB in every worker for each.
MAX_CERTIFICATES = 256


class Certificate(Section):
    """A certificate and its key."""

    cert: File
    """File with the certificate in PEM form, followed by the certificates that sign it. Required."""
    key: File
    """File with its private key in PEM form, without a password; may be the same file. Required."""


def _check_number(certificates: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    if not 1 <= len(certificates) <= MAX_CERTIFICATES:
        raise fault_error("has too few or too many items", f"1 to {MAX_CERTIFICATES} certificates")
    return certificates


class ListenerTls(Section):
    """TLS on a listener. Files are looked at every few seconds; what changed and is right is used for new
    connections, what is wrong is reported and the last good one stays."""

    certificates: Annotated[tuple[Certificate, ...], AfterValidator(_check_number)] = Field(
        json_schema_extra={"minItems": 1, "maxItems": MAX_CERTIFICATES}
    )
    """Certificates, 1 to 256; a client gets the one for the server name that it asks for: the exact name,
    then a wildcard, else the first of the list. Required."""
    client_auth: ClientAuth = "none"
    """Whether clients show a certificate of their own: `none`, `optional` or `required`. A certificate that
    `client_ca` does not sign ends the handshake in either case. Default none."""
    client_ca: File | None = None
    """File with the certificates in PEM form that sign the clients'. Default none; goes with `client_auth`."""
    forward_client_cert: Flag = False
    """Endpoints are sent the client's certificate in the field Client-Cert (RFC 9440). Default false. What
    clients themselves send under that name is dropped, unless they are trusted proxies."""
    min_version: TlsVersion = "1.2"
    """Lowest version of TLS: `1.2` or `1.3`. Default 1.2."""
    ciphers: Ciphers = ""
    """Suites of TLS 1.2, in OpenSSL's notation. Default `ECDHE+AESGCM:ECDHE+CHACHA20`. Those of TLS 1.3 are
    not chosen here; all of them are good."""
    session_tickets: Flag = True
    """Clients may resume a session and save half of the handshake, with the worker that they had it with;
    with another they make a full handshake. Default true."""


class ClusterTls(Section):
    """TLS to the endpoints of a cluster. Files are looked at as those of a listener."""

    ca: File | None = None
    """File with the certificates in PEM form that sign the endpoints'; an endpoint's own certificate will do.
    Default: the authorities that the system trusts."""
    server_name: ServerName = ""
    """Name that the endpoints' certificates must have, and that is asked for (SNI). Default: each endpoint's
    host name or IP address."""
    verify: Flag = True
    """Endpoints' certificates must be valid and have the name. Default true; false lets anybody on the way
    read and change everything."""
    cert: File | None = None
    """File with a certificate in PEM form to show to endpoints that ask for one, followed by the certificates
    that sign it. Default none."""
    key: File | None = None
    """File with its private key in PEM form, without a password. Default none; goes with `cert`."""
    min_version: TlsVersion = "1.2"
    """Lowest version of TLS: `1.2` or `1.3`. Default 1.2."""
