"""The package for Debian and Ubuntu."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from dcsync import DISTRIBUTION
from scripts.dist.pinned import REPOSITORY
from scripts.dist.tree import PYTHON

SCRIPTS = ("postinst", "prerm", "postrm")
_CONTROL = """Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: The dcsync maintainers <maintainers@dcsync.invalid>
Installed-Size: {size}
Depends: {python}, libc6 (>= 2.28), ca-certificates
Recommends: systemd, dbus, tzdata
Provides: dcsync
Section: net
Priority: optional
Description: mirror of Autodesk Data Connector extracts
 dcsync keeps a complete, verified, dated copy of every Autodesk Data Connector
 extract on a disk you own. It runs unattended as a systemd service.
 .
 The package contains the Python libraries that it needs, in /usr/lib/dcsync.
 They are compiled for {python}.
"""


def build_deb(tree: Path, version: str, into: Path, *, level: int = 10) -> Path:
    """Build the package from a tree of files and return its path."""
    control = tree / "DEBIAN"
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    architecture = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout
    text = _CONTROL.format(
        name=DISTRIBUTION,
        version=version,
        architecture=architecture.strip(),
        size=sum(path.stat().st_size for path in files) // 1024,
        python=PYTHON,
    )
    control.mkdir()
    (control / "control").write_text(text)
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files]  # noqa: S324 - dpkg's form
    (control / "md5sums").write_text("".join(sums))
    for name in SCRIPTS:
        shutil.copy(REPOSITORY / "release/deb" / name, control / name)
        (control / name).chmod(0o755)
    path = into / f"{DISTRIBUTION}_{version}_{architecture.strip()}.deb"
    # Debian 12 and Ubuntu 22.04 read zstd. xz would take many times as long.
    command: list[str | Path] = ["dpkg-deb", "--root-owner-group", "-Zzstd", f"-z{level}", "--build", tree, path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(control)
    return path
