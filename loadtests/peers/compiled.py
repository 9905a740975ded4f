"""The compiled build of this checkout: made when it is measured, and kept until the sources change.

It is installed without its dependencies, below the user's cache directory, and runs in this interpreter's environment,
so that the compiled modules are all that differs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.peers.processes import ChildError

ROOT = Path(__file__).resolve().parents[2]
# All that a wheel is made of.
PARTS = ("pyproject.toml", "README.md", "proxy")
# As README says; the second has nothing left behind in the sources.
ENVIRONMENT = {"HATCH_BUILD_HOOKS_ENABLE": "1", "HATCH_BUILD_CLEAN_HOOKS_AFTER": "1"}
LIMIT_S = 1800.0
OUTPUT = 2000
"""Characters of a failed build's output that are shown, from its end."""


def compiler() -> str | None:
    """Path of the C compiler; `None` when there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build() -> Path:
    """A directory for PYTHONPATH with the compiled package. Raises `ChildError` when it cannot be built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeport"
    place = cache / f"compiled-{_hash_of_sources()}"
    if place.exists():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    print("compiling Homeport, once for these sources; that takes two minutes", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        # A copy, so that no extension module can be left where it would go before its source.
        sources, made = Path(directory) / "sources", Path(directory) / "made"
        for part in PARTS:
            _copy(ROOT / part, sources / part)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, "--target", str(made), str(sources)],
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise ChildError(f"the compiled build failed:\n{(done.stdout + done.stderr)[-OUTPUT:]}")
        for old in cache.glob("compiled-*"):
            shutil.rmtree(old)
        made.rename(place)
    return place


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _hash_of_sources() -> str:
    """Of the interpreter, too, for which they are compiled."""
    found = hashlib.sha256(sys.version.encode())
    for file in [ROOT / "pyproject.toml", *sorted((ROOT / "proxy").rglob("*.py"))]:
        found.update(b"%b\0%d\0" % (os.fsencode(file.relative_to(ROOT)), file.stat().st_size))
        found.update(file.read_bytes())
    return found.hexdigest()[:16]
