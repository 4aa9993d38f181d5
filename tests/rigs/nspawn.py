"""A real systemd: systemd-nspawn boots it on an overlay of this machine's `/`. Needs root.

The overlay is mounted in a mount namespace of its own, so that it goes with its last process however that ends. The
processes stand in a cgroup of their own, which is emptied and removed at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from tests.rigs.ended import LIMIT_S, end

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).parents[2]
#: Where the container has the interpreter, its packages and the checkout. Elsewhere they may be below /root or /tmp,
#: which a hardened unit cannot see.
INTERPRETER: Final = "/opt/python"
PACKAGES: Final = "/opt/packages"
SOURCES: Final = "/opt/dcsync"
#: Where the container leaves what it found out.
RESULTS: Final = "/out"
#: A file whose time divides what was written before from what was written after: see `Booted.written`.
MARK: Final = "/var/mark"

_WITH_OVERLAY: Final = """
place=$1 image=$2 results=$3 cgroups=$4; shift 4
for cgroup in $cgroups; do echo $$ > "$cgroup/cgroup.procs"; done
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=755 tmpfs /run/systemd/nspawn  # where systemd-nspawn leaves folders
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
# This machine may have a dcsync of its own.
rm -rf "$place/root/etc/dcsync" "$place/root/srv/dcsync" "$place/root/var/lib/dcsync"
tar -C "$image" -cf - . | tar -C "$place/root" --no-overwrite-dir --no-same-owner -xf -
status=0
"$@" < /dev/null || status=$?
if [ -e "$place/upper$MARK" ]; then
    find "$place/upper" -newer "$place/upper$MARK" -printf '%U %y /%P\\n' > "$results/written"
fi
exit "$status"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Something in the file system that was written after the mark."""

    uid: int
    is_folder: bool
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """What a boot left behind."""

    status: int
    console: str
    results: Path
    written: tuple[Written, ...]


def python(script: str) -> str:
    """Return a shell script for the container that runs a Python program by these tests' interpreter and packages."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return f"""#!/bin/sh
export LD_LIBRARY_PATH={INTERPRETER}/lib PYTHONPATH={SOURCES}:{PACKAGES} PYTHONDONTWRITEBYTECODE=1
exec {INTERPRETER}/bin/{name} {script} "$@"
"""


def boot(
    folder: Path, *, files: dict[str, str], unit: str, timeout_s: float, folders: dict[str, Path] | None = None
) -> Booted:
    """Boot to `unit` and return when the system has ended. `files` are put in, text by path; scripts are executable.

    `folders` are mounted, read-only.

    The unit ends the system itself (`SuccessAction=exit`, `FailureAction=exit`). Taking too long is
    an `AssertionError`, and the end of all that was started. `folder` takes the working files.
    """
    place, image, results = folder / "overlay", folder / "image", folder / "results"
    for path in (place, image, results):
        path.mkdir()
    # With an id of its own it is no first boot, whatever this machine is.
    own = {"/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "/etc/machine-id": f"{uuid4().hex}\n"}
    for name, text in {**own, **files}.items():
        path = image / name.removeprefix("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    nspawn = [
        "systemd-nspawn",
        f"--directory={place}/root",
        f"--machine={folder.name}-{os.getpid()}".replace("_", "-"),
        # This machine's own manager, if it has one, need not know.
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "--link-journal=no",
        # Loopback only, and one that no other test listens on.
        "--private-network",
        f"--bind-ro={sys.base_prefix}:{INTERPRETER}",
        f"--bind-ro={sysconfig.get_path('purelib')}:{PACKAGES}",
        f"--bind-ro={CHECKOUT}:{SOURCES}",
        f"--bind={results}:{RESULTS}",
        *(f"--bind-ro={path}:{name}" for name, path in (folders or {}).items()),
        "--boot",
        f"systemd.unit={unit}",
    ]
    with own_cgroups(f"dcsync-{folder.name}-{os.getpid()}") as cgroups:
        shell = ["sh", "-euc", _WITH_OVERLAY, "sh", str(place), str(image), str(results), " ".join(map(str, cgroups))]
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "--", *shell, *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={"PATH": os.environ["PATH"], "MARK": MARK},
            start_new_session=True,
        )
        try:
            console, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            console = _rest(process)
            message = f"the system had not ended after {timeout_s} s; its console:\n{console[-4000:]}"
            raise AssertionError(message) from None
        except BaseException:
            end(process, group=True)
            raise
    return Booted(status=process.returncode, console=console, results=results, written=_written(results / "written"))


def _rest(process: subprocess.Popen[str]) -> str:
    """Return what a killed system has printed, unless something that survived holds its console."""
    try:
        return process.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        return "(something still holds it)"


def _written(report: Path) -> tuple[Written, ...]:
    if not report.exists():
        return ()
    rows = [line.split(" ", 2) for line in report.read_text(errors="replace").splitlines()]
    return tuple(Written(uid=int(uid), is_folder=kind == "d", path=path) for uid, kind, path in rows)


@contextmanager
def own_cgroups(name: str) -> Iterator[list[Path]]:
    """Make a cgroup of this name in each hierarchy of systemd's; at the end kill what is in them and remove them."""
    made: list[Path] = []
    try:
        for folder in _systemds_cgroups():
            (folder / name).mkdir()
            made.append(folder / name)
        yield made
    finally:
        for folder in made:
            _remove_cgroup(folder)


def _systemds_cgroups() -> list[Path]:
    """Return this process's cgroups, in the unified hierarchy and in version 1's `name=systemd`."""
    hierarchies = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchies[controllers] = path.removeprefix("/")
    folders = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, options, *_ = line.split()
        if kind == "cgroup2" and "" in hierarchies:
            folders.append(Path(mounted, hierarchies[""]))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            folders.append(Path(mounted, hierarchies["name=systemd"]))
    return folders


def _remove_cgroup(folder: Path) -> None:
    deadline = monotonic() + 120
    while True:
        for path, _, _ in os.walk(folder, topdown=False):
            for pid in Path(path, "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):  # busy until the last one has gone
                Path(path).rmdir()
        if not folder.is_dir():
            return
        assert monotonic() < deadline, f"{folder} does not get empty"
