"""Looks after the certificate files while the daemon runs: what changed and is right is served, what is wrong is told.

Files are compared by content every few seconds, which sees every way of replacing them: written over, renamed into
place, or a directory swapped by a symbolic link, as Kubernetes does with secrets; notifications of the kernel miss the
last on some file systems. A certificate and its key that do not belong together, as they are for a moment while
somebody replaces one after the other, are not used; the next look finds both.

Nothing here stops serving: a certificate that expires meanwhile is served on and complained about.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from proxy.clock import Clock
from proxy.config.certificates import date_text
from proxy.config.faults import BadValue
from proxy.config.interpolate import read_regular_file
from proxy.config.material import (
    MAX_FILE_BYTES,
    NO_MATERIAL,
    BadMaterial,
    TlsMaterial,
    TlsSection,
    material_of,
    tls_sections,
)
from proxy.config.schema import Config
from proxy.snapshot import CertificateSpec, ClusterTlsSpec, ListenerTlsSpec
from proxy.tasks import spawn

_log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds between two looks. Reading a few files takes less than a millisecond, and nobody waits for them."""

WARN_DAYS = (14, 7, 3, 1, 0)
"""Days before the end of a certificate at which the log says so. Renewal is due a month before by custom; two weeks
without it mean that something is wrong and leave time to mend it."""
_DAY_S = 86400.0
# Readable by others than the owner and its group.
_OTHERS_MAY_READ = 0o004

Spec = ListenerTlsSpec | ClusterTlsSpec


class _Watched:
    """One listener's or cluster's files: what they were at the last look, and what they last came to."""

    def __init__(self, section: TlsSection, now: float, last_good: Spec | None) -> None:
        self.section = section
        self._digest = _digest(section)
        self.problem = ""
        """What is wrong with the files as they are; empty while `spec` is what they hold."""
        try:
            self.spec = section.read(now)
        except BadMaterial as error:
            if last_good is None:
                raise
            self.spec = last_good
            self.problem = str(error)
            _log.error("%s: the last good certificates stay in use: %s", section, error)

    def look(self, now: float) -> "_Seen | None":
        """Read the files again if they changed, or were wrong. Changes nothing, for it is called in a thread."""
        digest = _digest(self.section)
        if digest == self._digest and not self.problem:
            return None
        try:
            return _Seen(digest, self.section.read(now), "")
        except BadMaterial as error:
            return _Seen(digest, None, str(error))

    def take(self, seen: "_Seen") -> bool:
        """Go by what a look saw. True when there is something new to serve."""
        before, self.problem = self.problem, seen.problem
        self._digest = seen.digest
        if seen.spec is None:
            if seen.problem != before:
                _log.error("%s: the last good certificates stay in use: %s", self.section, seen.problem)
            return False
        if seen.spec == self.spec:
            return False
        self.spec = seen.spec
        names = ", ".join(each.names[0] for each in certificates_of(seen.spec) if each.names)
        _log.info("%s: certificates were replaced: %s", self.section, names or "authorities")
        return True

    def document(self, now: float) -> dict[str, Any]:
        """What is served, and what is wrong with the files; `now` is in seconds since the Unix epoch."""
        ends = min((each.expires_at for each in certificates_of(self.spec)), default=None)
        return {
            "kind": self.section.kind,
            "name": self.section.name,
            "problem": self.problem or None,
            "expires_in_s": None if ends is None else round(ends - now),
        }


class _Seen(NamedTuple):
    """What a look found in changed files: what they come to, or what is wrong with them."""

    digest: bytes
    spec: Spec | None
    problem: str


def certificates_of(spec: Spec) -> tuple[CertificateSpec, ...]:
    """The certificates that `spec` shows to others."""
    if isinstance(spec, ListenerTlsSpec):
        return spec.certificates
    return (spec.certificate,) if spec.certificate is not None else ()


class CertificateWatcher:
    """Keeps what the TLS settings come to current, and calls `on_change` after each change."""

    def __init__(
        self,
        config: Config,
        on_change: Callable[[], None],
        *,
        clock: Clock,
        last_good: TlsMaterial = NO_MATERIAL,
    ) -> None:
        """Reads everything. Raises `BadMaterial` when anything is wrong at the start that `last_good` has not."""
        self._clock = clock
        self._on_change = on_change
        now = clock.wall()
        self._watched = [_Watched(each, now, last_good.of(each)) for each in tls_sections(config)]
        self._warned: dict[CertificateSpec, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.reloads_total = 0
        """Times that changed files were taken into use."""
        self._complain_of_open_keys()

    def __repr__(self) -> str:
        return f"CertificateWatcher({len(self._watched)} watched, {self.failing} failing)"

    @property
    def material(self) -> TlsMaterial:
        """What to serve with."""
        return material_of({each.section: each.spec for each in self._watched})

    @property
    def failing(self) -> int:
        """Listeners and clusters whose files cannot be used as they are now."""
        return sum(1 for each in self._watched if each.problem)

    def documents(self) -> list[dict[str, Any]]:
        """Each listener and cluster with certificates, as the admin API has it."""
        return [each.document(self._clock.wall()) for each in self._watched]

    def start(self) -> None:
        """Begin to look."""
        if self._watched:
            self._warn_of_ends()
            self._task = spawn(self._watch(), name="watch certificates")

    async def stop(self) -> None:
        """Stop looking. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once; the files are read in a thread, for they may be on a slow file system."""
        seen = await asyncio.to_thread(self._look)
        # All at once: whoever sees that a fault is over sees that its files were taken into use, too.
        changed = sum(each.take(found) for each, found in zip(self._watched, seen, strict=True) if found)
        self._warn_of_ends()
        if changed:
            self.reloads_total += changed
            self._on_change()

    def _look(self) -> list[_Seen | None]:
        now = self._clock.wall()
        return [each.look(now) for each in self._watched]

    def _certificates(self) -> Iterator[tuple[TlsSection, CertificateSpec]]:
        for each in self._watched:
            for certificate in certificates_of(each.spec):
                yield each.section, certificate

    def _warn_of_ends(self) -> None:
        """Say once at each of `WARN_DAYS` that a certificate ends soon, or has."""
        now = self._clock.wall()
        warned = {}
        for section, certificate in self._certificates():
            left_s = certificate.expires_at - now
            due = min((days for days in WARN_DAYS if left_s <= days * _DAY_S), default=None)
            if due is None:
                continue
            warned[certificate] = due
            if self._warned.get(certificate) != due:
                name = certificate.names[0] if certificate.names else "without a name"
                verb = "ends" if left_s > 0 else "ended, and is still served,"
                _log.warning(
                    "%s: certificate %s %s on %s", section, name, verb, date_text(certificate.expires_at)
                )
        self._warned = warned

    def _complain_of_open_keys(self) -> None:
        for each in self._watched:
            for key in each.section.keys:
                if _is_open_to_others(key):
                    _log.warning("%s: every user of this machine can read the key %s", each.section, key)


def _is_open_to_others(key: Path) -> bool:
    try:
        return bool(key.stat().st_mode & _OTHERS_MAY_READ)
    except OSError:
        return False  # gone, while the last good one is served on


def _digest(section: TlsSection) -> bytes:
    """Changes with the content of any of the section's files, or with why it cannot be read."""
    digest = blake2b(digest_size=16)
    for file in section.files:
        try:
            content = read_regular_file(file, MAX_FILE_BYTES)
        except BadValue as error:
            content = str(error).encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.digest()
