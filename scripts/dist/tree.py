"""The files that the .deb and the .rpm install: dcsync with all that it needs in /usr/lib/dcsync, and its service.

/usr/lib/dcsync is a virtual environment of the system's own Python. It is made without `python -m venv`, because it must
work in another place than the one where it is built.
"""

from __future__ import annotations

import compileall
import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

from dcsync import DISTRIBUTION
from dcsync.systemd import SHARED_SETTINGS
from dcsync.systemd.install import shipped
from scripts.dist.pinned import REPOSITORY

#: The interpreter of the packages, and the only version that their compiled modules work with.
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
HOME = Path("usr/lib/dcsync")
SITE = HOME / "lib" / PYTHON / "site-packages"
SERVICES = ("dcsync.service", "dcsync@.service", "dcsync-sync.service")

_PYVENV = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n"
_SCRIPT = f"#!/{HOME}/bin/python3\nfrom dcsync.cli import main\n\nmain()\n"


def make_tree(root: Path, *, wheel: Path, wheels: Path) -> None:
    """Fill a folder with what the packages install. `wheels` has requirements.txt, and the files of all of them."""
    site = root / SITE
    _install(site, wheel, wheels)
    _write(root / HOME / "pyvenv.cfg", _PYVENV)
    _write(root / HOME / "bin/dcsync", _SCRIPT, mode=0o755)
    _link(root / HOME / "bin/python3", Path("/usr/bin", PYTHON))
    _link(root / "usr/bin/dcsync", Path("../lib/dcsync/bin/dcsync"))
    _place_shared(root, site / "share")
    _place_units(root)
    shutil.rmtree(site / "bin", ignore_errors=True)  # programs of the libraries, for this machine's interpreter
    for record in site.glob("*.dist-info"):
        for name in ("RECORD", "direct_url.json", "REQUESTED"):  # list files that are elsewhere now
            (record / name).unlink(missing_ok=True)
    # The user of the service cannot write compiled modules, so these are never checked and never written again.
    unchecked = PycInvalidationMode.UNCHECKED_HASH
    compiled = compileall.compile_dir(
        site, quiet=1, workers=0, stripdir=str(root), prependdir="/", invalidation_mode=unchecked
    )
    assert compiled, f"some modules in {site} cannot be compiled"


def _install(site: Path, wheel: Path, wheels: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    offline = ["--no-index", f"--find-links={wheels}", f"--target={site}", "--upgrade"]
    subprocess.run([*pip, *offline, "--require-hashes", f"--requirement={wheels / 'requirements.txt'}"], check=True)
    subprocess.run([*pip, *offline, str(wheel)], check=True)


def _place_shared(root: Path, shared: Path) -> None:
    """Move the manual, the completion and the example from the wheel's prefix to /usr."""
    shutil.copytree(shared, root / "usr/share", dirs_exist_ok=True)
    shutil.rmtree(shared)
    _link(root / "usr/share/zsh/vendor-completions/_dcsync", Path("../site-functions/_dcsync"))  # Debian's folder
    _compress(root / "usr/share/man/man1/dcsync.1")
    documents = root / "usr/share/doc" / DISTRIBUTION
    (root / "usr/share/doc/dcsync").rename(documents)
    shutil.copy(REPOSITORY / "LICENSE", documents / "copyright")
    shutil.copy(REPOSITORY / "CHANGELOG.md", documents / "changelog")
    _compress(documents / "changelog")


def _place_units(root: Path) -> None:
    for name in (*SERVICES, "dcsync-sync.timer"):
        _write(root / "usr/lib/systemd/system" / name, shipped(name).replace("/usr/local/bin/dcsync", "/usr/bin/dcsync"))
    for name in SERVICES:
        _link(root / "usr/lib/systemd/system" / f"{name}.d", SHARED_SETTINGS)
    for kind in ("sysusers", "tmpfiles"):
        _write(root / f"usr/lib/{kind}.d/dcsync.conf", shipped(f"dcsync.{kind}"))


def _compress(path: Path) -> None:
    """Compress a file without a name and a time in it."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
