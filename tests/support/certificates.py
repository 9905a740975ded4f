"""Certificates for tests: an authority that signs whatever is asked for, valid or not."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """A certificate with its key, in files."""

    cert: Path
    key: Path

    def config(self) -> dict[str, str]:
        """The two keys of the configuration."""
        return {"cert": str(self.cert), "key": str(self.key)}


class Authority:
    """Signs certificates; with `signer` it is an intermediate one."""

    def __init__(self, name: str = "authority", signer: "Authority | None" = None) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.private = ec.generate_private_key(ec.SECP256R1())
        signing = signer or self
        self.certificate = _build(self.name, self.private.public_key(), signing.name, is_authority=True).sign(
            signing.private, hashes.SHA256()
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: str,
        days: tuple[float, float] = (-1, 30),
        chain: bytes = b"",
        password: bytes | None = None,
        private: ec.EllipticCurvePrivateKey | None = None,
    ) -> tuple[bytes, bytes]:
        """Certificate (with `chain` after it) and key for `names`, valid between `days` from now."""
        private = private or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        builder = _build(subject, private.public_key(), self.name, is_authority=False, days=days)
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), False)
        certificate = builder.sign(self.private, hashes.SHA256()).public_bytes(Encoding.PEM)
        protection = BestAvailableEncryption(password) if password else NoEncryption()
        return certificate + chain, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)

    def write(self, folder: Path, *names: str, days: tuple[float, float] = (-1, 30)) -> Files:
        """A certificate for `names` in files of `folder` that are called after the first."""
        files = Files(folder / f"{names[0]}.crt", folder / f"{names[0]}.key")
        cert, key = self.issue(*names, days=days)
        files.cert.write_bytes(cert)
        files.key.write_bytes(key)
        return files

    def write_ca(self, folder: Path) -> Path:
        """The authority's own certificate in a file."""
        path = folder / "authority.crt"
        path.write_bytes(self.pem)
        return path


def _build(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    *,
    is_authority: bool,
    days: tuple[float, float] = (-1, 30),
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
