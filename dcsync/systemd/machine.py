"""The machine, or the folder with another system, that the service is installed on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dcsync.errors import ServiceSetupFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A system by its root folder. Paths in the parameters are those that the system itself uses."""

    root: Path = Path("/")

    @property
    def is_running(self) -> bool:
        """Whether this is the system that we run on, and systemd manages it."""
        return self.root == Path("/") and Path("/run/systemd/system").is_dir()

    def at(self, path: Path) -> Path:
        """Return where the path is for us."""
        return self.root / path.relative_to("/")

    def command(self, program: str, *arguments: str) -> list[str] | None:
        """Return the command for this system, or None if the program is not installed on ours."""
        if shutil.which(program) is None:
            return None
        option = "--prefix" if program == "useradd" else "--root"
        return [program, *([] if self.root == Path("/") else [option, str(self.root)]), *arguments]

    def user(self, name: str) -> tuple[int, int] | None:
        """Return the uid and gid of a user, or None."""
        if self.root == Path("/"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                return None
            return entry.pw_uid, entry.pw_gid
        rows = (line.split(":") for line in self.text(Path("/etc/passwd")).splitlines())
        return next(((int(row[2]), int(row[3])) for row in rows if row[0] == name), None)

    def text(self, path: Path) -> str:
        """Return the content of a file, or nothing if it does not exist."""
        try:
            return self.at(path).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def write(self, path: Path, text: str) -> None:
        """Create or replace a file that everyone may read."""
        self.make_folder(path.parent)
        new = self.at(path.with_name(f".{path.name}.new"))
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(self.at(path))

    def link(self, path: Path, target: Path) -> None:
        """Create a symbolic link, or replace one."""
        self.make_folder(path.parent)
        self.at(path).unlink(missing_ok=True)
        self.at(path).symlink_to(target)

    def make_folder(self, path: Path, mode: int = 0o755, owner: tuple[str, str] = ("root", "root")) -> None:
        """Create a folder with its parents, which root owns. An existing folder stays as it is."""
        if self.at(path).is_dir():
            return
        self.make_folder(path.parent)
        self.at(path).mkdir()
        self.at(path).chmod(mode)
        if owner != ("root", "root"):
            ids = {"root": (0, 0), owner[1]: self.user(owner[1])}
            (uid, _), (_, gid) = ids[owner[0]] or (0, 0), ids[owner[1]] or (0, 0)
            os.chown(self.at(path), uid, gid)


def run(command: list[str]) -> None:
    """Run a command. If it fails, raise `ServiceSetupFailed` with its own words."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode:
        message = f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip() or done.returncode}"
        raise ServiceSetupFailed(message)
