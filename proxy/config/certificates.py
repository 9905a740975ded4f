"""What certificates and keys say, and what is wrong with them.

`ssl` can load a certificate and a key but not say when it ends, whom it names or who signed it without a connection;
`cryptography` can. It is used here alone, in the control process: workers get what is known to be right.
"""

import re
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxy.config.faults import BadValue
from proxy.snapshot import CertificateSpec

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CHAIN = "a certificate in PEM form, followed by the certificates that sign it"
_KEY = "the certificate's private key in PEM form, without a password"
_AUTHORITIES = "certificates in PEM form that are valid now"


class KeyMismatch(BadValue):
    """The key is fine, but not that of the certificate."""


def read_certificate(chain_pem: bytes, key_pem: bytes, now: float) -> CertificateSpec:
    """A certificate with its chain and its key, if they are right at `now` (seconds since the Unix epoch).

    Raises `BadValue` for what is wrong with the chain, `KeyMismatch` when the key is that of another certificate.
    """
    chain = _load_chain(chain_pem)
    key = load_key(key_pem)
    own = key.public_key()
    holders = [index for index, each in enumerate(chain) if each.public_key() == own]
    if not holders:
        raise KeyMismatch("is not the key of the certificate", _KEY)
    if 0 not in holders:
        raise BadValue(f"has its own certificate at place {holders[0] + 1}, not first", _CHAIN)
    for index, (certificate, signer) in enumerate(pairwise(chain)):
        if not _is_signed_by(certificate, signer):
            text = f"is not in order: certificate {index + 2} did not sign certificate {index + 1}"
            raise BadValue(text, _CHAIN)
    for index, certificate in enumerate(chain):
        if (problem := _date_problem(certificate, now)) is not None:
            raise BadValue(problem if index == 0 else f"has certificate {index + 1}, which {problem}", _CHAIN)
    expires_at = min(each.not_valid_after_utc.timestamp() for each in chain)
    return CertificateSpec(chain_pem, key_pem, _names(chain[0]), expires_at)


def load_key(pem: bytes) -> PrivateKeyTypes:
    """The private key in `pem`. Raises `BadValue`."""
    try:
        return load_pem_private_key(pem, None)
    except TypeError as error:
        raise BadValue("is encrypted", _KEY) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadValue("holds no private key that can be used", _KEY) from error


def check_authorities(pem: bytes, now: float) -> None:
    """Raise `BadValue` unless `pem` holds certificates of which one at least is valid at `now`.

    Not all are looked at: lists of public authorities have some that a strict reader refuses, and old ones beside new.
    """
    problem = "holds no certificate in PEM form"
    for block in _BLOCK.findall(pem):
        try:
            found = _date_problem(x509.load_pem_x509_certificate(block), now)
        except ValueError:
            problem = "holds a certificate that cannot be read"
            continue
        if found is None:
            return
        problem = found
    raise BadValue(problem, _AUTHORITIES)


def _load_chain(pem: bytes) -> list[x509.Certificate]:
    blocks = _BLOCK.findall(pem)
    if not blocks:
        raise BadValue("holds no certificate in PEM form", _CHAIN)
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise BadValue("holds a certificate that cannot be read", _CHAIN) from error


def _is_signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _date_problem(certificate: x509.Certificate, now: float) -> str | None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end.timestamp():
        return f"expired on {date_text(end.timestamp())}"
    if now < begin.timestamp():
        return f"is not valid before {date_text(begin.timestamp())}"
    return None


def date_text(at: float) -> str:
    """`at`, in seconds since the Unix epoch, for people: `2026-11-23 10:15 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Names and addresses that it is for: alternative names, else the common name (RFC 6125 6.4.4), in lower case."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        names = [str(each.value) for each in common]
    else:
        names = [
            *found.get_values_for_type(x509.DNSName),
            *map(str, found.get_values_for_type(x509.IPAddress)),
        ]
    return tuple(dict.fromkeys(name.lower() for name in names))
