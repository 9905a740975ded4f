"""The files that the configuration's TLS settings name: read, judged, and made into what workers serve with.

`check`, the start, and the watcher that looks for changed files all come through here, so they agree on what is
right. What is read is complete or not at all: a certificate whose key does not fit is not used, however briefly the two
files are out of step while somebody replaces them.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from proxy.config.certificates import KeyMismatch, check_authorities, load_key, read_certificate
from proxy.config.faults import BadValue, Path, path_text
from proxy.config.interpolate import read_regular_file
from proxy.config.schema import Config, Listener
from proxy.config.tls_schema import ClusterTls, ListenerTls
from proxy.errors import ConfigError
from proxy.snapshot import CertificateSpec, ClusterTlsSpec, ListenerTlsSpec, Snapshot
from proxy.tls import client_context, server_context

# A chain has a few certificates of some 2 KB; the list of every public authority has 250 KB.
MAX_FILE_BYTES = 4 * 1024 * 1024
# Where systems keep the authorities that they trust, if OpenSSL's own setting leads nowhere.
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class MaterialFault:
    """One thing that is wrong: on which key below the TLS settings, and the texts of a fault."""

    path: Path
    problem: str
    expected: str


class BadMaterial(ConfigError):
    """TLS settings whose files cannot be used."""

    def __init__(self, where: str, faults: list[MaterialFault]) -> None:
        assert faults
        super().__init__(where, faults[0].problem, faults[0].expected)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "; ".join(
            f"{self.path}.{path_text(each.path)}: {each.problem}, expected {each.expected}"
            for each in self.faults
        )


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the TLS settings of a configuration come to."""

    listeners: Mapping[str, ListenerTlsSpec]
    """By the listener's name; only those with TLS."""
    clusters: Mapping[str, ClusterTlsSpec]
    """By the cluster's name; only those with TLS."""

    def of(self, section: "TlsSection") -> ListenerTlsSpec | ClusterTlsSpec | None:
        """What the settings `section` come to; `None` when they are not among these."""
        return (self.listeners if section.kind == "listener" else self.clusters).get(section.name)


NO_MATERIAL = TlsMaterial({}, {})


def listener_name(listener: Listener, index: int) -> str:
    """The name of a listener, or the default one by its position."""
    return listener.name or f"listener-{index + 1}"


@dataclass(frozen=True, slots=True)
class TlsSection:
    """The TLS settings of one listener or cluster, and the files behind them."""

    kind: str
    """`listener` or `cluster`."""
    name: str
    """Of the listener or cluster."""
    files: tuple[FilePath, ...]
    """All that is read."""
    keys: tuple[FilePath, ...]
    """Those with private keys."""
    read: Callable[[float], ListenerTlsSpec | ClusterTlsSpec]
    """What the settings come to at a time in seconds since the Unix epoch. Raises `BadMaterial`."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def tls_sections(config: Config) -> list[TlsSection]:
    """The TLS settings of `config`, in order of the file."""
    found = []
    for index, listener in enumerate(config.listeners):
        if listener.tls is not None:
            found.append(_listener_section(listener_name(listener, index), listener.tls, index))
    for index, cluster in enumerate(config.clusters):
        if cluster.tls is not None:
            found.append(_cluster_section(cluster.name, cluster.tls, index))
    return found


def _listener_section(name: str, tls: ListenerTls, index: int) -> TlsSection:
    keys = tuple(each.key for each in tls.certificates)
    files = _given(*(each.cert for each in tls.certificates), *keys, tls.client_ca)

    def read(now: float) -> ListenerTlsSpec:
        return read_listener_tls(tls, now=now, where=f"listeners[{index}].tls")

    return TlsSection("listener", name, files, keys, read)


def _cluster_section(name: str, tls: ClusterTls, index: int) -> TlsSection:
    ca = (tls.ca or system_authorities()) if tls.verify else None

    def read(now: float) -> ClusterTlsSpec:
        return read_cluster_tls(tls, now=now, where=f"clusters[{index}].tls")

    return TlsSection("cluster", name, _given(ca, tls.cert, tls.key), _given(tls.key), read)


def _given(*files: FilePath | None) -> tuple[FilePath, ...]:
    return tuple(file for file in files if file is not None)


def material_of(specs: Mapping[TlsSection, ListenerTlsSpec | ClusterTlsSpec]) -> TlsMaterial:
    """What all sections come to, from what each does."""
    listeners = {each.name: spec for each, spec in specs.items() if isinstance(spec, ListenerTlsSpec)}
    clusters = {each.name: spec for each, spec in specs.items() if isinstance(spec, ClusterTlsSpec)}
    return TlsMaterial(listeners, clusters)


def served_material(snapshot: Snapshot | None) -> TlsMaterial:
    """What `snapshot` is served with."""
    if snapshot is None:
        return NO_MATERIAL
    return TlsMaterial(
        {each.name: each.tls for each in snapshot.listeners if each.tls is not None},
        {each.name: each.tls for each in snapshot.clusters if each.tls is not None},
    )


def read_listener_tls(tls: ListenerTls, *, now: float, where: str = "tls") -> ListenerTlsSpec:
    """What `tls` comes to. Raises `BadMaterial` with all that is wrong with its files."""
    reader = _Reader(now)
    certificates = [
        reader.certificate(each.cert, each.key, ("certificates", index))
        for index, each in enumerate(tls.certificates)
    ]
    client_ca = reader.authorities(tls.client_ca, "client_ca") if tls.client_ca is not None else b""
    spec = ListenerTlsSpec(
        certificates=tuple(each for each in certificates if each is not None),
        client_auth=tls.client_auth,
        client_ca=client_ca,
        forward_client_cert=tls.forward_client_cert,
        min_version=tls.min_version,
        ciphers=tls.ciphers,
        session_tickets=tls.session_tickets,
    )
    if not reader.faults:
        # Each certificate without the authorities: a long list of them takes OpenSSL 30 ms each time.
        alone = replace(spec, client_auth="none", client_ca=b"")
        for index, certificate in enumerate(spec.certificates):
            reader.attempt_server(
                replace(alone, certificates=(certificate,)), ("certificates", index, "cert")
            )
    if not reader.faults and spec.client_auth != "none":
        reader.attempt_server(replace(spec, certificates=spec.certificates[:1]), ("client_ca",))
    reader.finish(where)
    return spec


def read_cluster_tls(tls: ClusterTls, *, now: float, where: str = "tls") -> ClusterTlsSpec:
    """What `tls` comes to. Raises `BadMaterial` with all that is wrong with its files."""
    reader = _Reader(now)
    ca = b""
    if tls.verify:
        ca = reader.authorities(tls.ca or system_authorities(), "ca")
    certificate = None
    if tls.cert is not None and tls.key is not None:
        certificate = reader.certificate(tls.cert, tls.key, ())
    spec = ClusterTlsSpec(ca=ca, verify=tls.verify, certificate=certificate, min_version=tls.min_version)
    if not reader.faults:
        reader.attempt_client(spec, ("cert",) if certificate is not None else ("ca",))
    reader.finish(where)
    return spec


def system_authorities() -> FilePath | None:
    """The file with the authorities that the system trusts; `None` when there is none."""
    places = (ssl.get_default_verify_paths().cafile, *_SYSTEM_AUTHORITIES)
    return next((FilePath(place) for place in places if place and FilePath(place).is_file()), None)


class _Reader:
    """Reads files and collects what is wrong with them."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.faults: list[MaterialFault] = []

    def certificate(self, cert: FilePath, key: FilePath, path: Path) -> CertificateSpec | None:
        """The certificate of the keys `cert` and `key` below `path`; `None` with a fault."""
        chain_pem = self._content(cert, (*path, "cert"))
        key_pem = self._content(key, (*path, "key"))
        if key_pem is not None:
            try:
                load_key(key_pem)
            except BadValue as error:
                self._add((*path, "key"), error)
                return None
        if chain_pem is None or key_pem is None:
            return None
        try:
            return read_certificate(chain_pem, key_pem, self._now)
        except KeyMismatch as error:
            self._add((*path, "key"), error)
        except BadValue as error:
            self._add((*path, "cert"), error)
        return None

    def authorities(self, file: FilePath | None, key: str) -> bytes:
        """The certificates in `file`; empty with a fault."""
        if file is None:
            self.faults.append(
                MaterialFault((key,), "is missing, and the system has no list of authorities", "a file")
            )
            return b""
        content = self._content(file, (key,))
        if content is None:
            return b""
        try:
            check_authorities(content, self._now)
        except BadValue as error:
            self._add((key,), error)
        return content

    def attempt_server(self, spec: ListenerTlsSpec, path: Path) -> None:
        """See whether OpenSSL takes it."""
        try:
            server_context(spec)
        except (ssl.SSLError, ValueError) as error:
            self._add_refused(path, error)

    def attempt_client(self, spec: ClusterTlsSpec, path: Path) -> None:
        try:
            client_context(spec)
        except (ssl.SSLError, ValueError) as error:
            self._add_refused(path, error)

    def finish(self, where: str) -> None:
        """Raise `BadMaterial` if anything was wrong."""
        if self.faults:
            raise BadMaterial(where, self.faults)

    def _content(self, file: FilePath, path: Path) -> bytes | None:
        try:
            return read_regular_file(file, MAX_FILE_BYTES)
        except BadValue as error:
            self._add(path, error)
            return None

    def _add(self, path: Path, error: BadValue) -> None:
        self.faults.append(MaterialFault(path, error.problem, error.expected))

    def _add_refused(self, path: Path, error: Exception) -> None:
        # Such as EE_KEY_TOO_SMALL or CA_MD_TOO_WEAK.
        reason = getattr(error, "reason", None) or str(error)
        problem = f"is refused by OpenSSL ({reason.lower().replace('_', ' ')})"
        self.faults.append(MaterialFault(path, problem, "a certificate that can be used"))
