"""A bare Debian: the distribution's own packages and nothing of this machine, booted by systemd-nspawn. Needs root.

`image` installs it from the packages that `scripts/bare-debian` has downloaded, as debootstrap would. They are also its
mirror, so that apt works in it. A boot changes an overlay of the image only. The network is loopback. A sandbox outside
shares it, and this process types, so that no Python of this machine is inside.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, TypeAlias

from tests.rigs.ended import end
from tests.rigs.nspawn import own_cgroups

#: What `make .venv/.bare` has downloaded, and the index of it for apt.
DOWNLOADED: Final = Path(sys.prefix) / "bare/packages"
#: Where the machine has it.
MIRROR: Final = "/var/lib/mirror"
#: Finds a hang.
PATIENCE_S: Final = 300.0
#: Makes what a person types from what is on the screen.
Answer: TypeAlias = Callable[[str], str]

#: Installing it flushes thousands of files, which nobody needs: it happens in memory.
_INSTALL: Final = """
place=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$place"
TMPDIR=$place exec "$@"
"""
_BOOT: Final = """
place=$1 image=$2 cgroups=$3; shift 3
for cgroup in $cgroups; do echo $$ > "$cgroup/cgroup.procs"; done
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=755 tmpfs /run/systemd/nspawn  # where systemd-nspawn leaves folders
mount -t tmpfs -o mode=755 tmpfs "$place"
tar -C "$place" -xf "$image"
exec "$@" < /dev/null
"""
_UNSHARE: Final = ("unshare", "--mount", "--propagation=private", "--", "sh", "-euc")


def image() -> Path:
    """Install the bare system, unless one of the same packages is there, and return its files as a tar archive."""
    index = DOWNLOADED / "Packages"
    assert index.exists(), "run: make .venv/.bare (it downloads the packages of a bare Debian)"
    options = ["--mode=root", "--variant=apt", "--include=systemd-sysv", "--skip=check/signed-by", "--format=tar"]
    options += ["--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/locale/*"]
    # Options that hold only while it is installed, and the names that are this machine's.
    forget = 'cd "$1"/etc && rm dpkg/dpkg.cfg.d/99mmdebstrap apt/sources.list hostname resolv.conf'
    source = f'echo "deb [trusted=yes] file:{MIRROR} ./" > "$1"/etc/apt/sources.list.d/mirror.list'
    options += [f"--customize-hook={forget}", f"--customize-hook={source}"]
    made_of = hashlib.sha256(index.read_bytes() + "".join(options).encode()).hexdigest()[:16]
    path = DOWNLOADED.parent / f"image-{made_of}.tar"
    if not path.exists():
        for old in DOWNLOADED.parent.glob("image-*.tar"):
            old.unlink()
        new, place = path.with_suffix(f".{os.getpid()}"), DOWNLOADED.parent / "place"
        place.mkdir(exist_ok=True)
        command = ["mmdebstrap", "--quiet", *options, "", str(new), f"deb [trusted=yes] copy:{DOWNLOADED} ./"]
        subprocess.run([*_UNSHARE, _INSTALL, "sh", str(place), *command], check=True, stdin=subprocess.DEVNULL)
        new.rename(path)
    return path


def plain(text: str) -> str:
    """Return what a terminal showed without its colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The booted system."""

    pid: int

    def enter(self, *command: str | Path) -> list[str | Path]:
        """Return the command that runs this one inside, with the environment of a new boot."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", f"--target={self.pid}", "--all", "env", "-i", "--chdir=/", path, "TERM=dumb", *command]

    def run(self, *command: str | Path) -> Done:
        """Run a command of root inside."""
        try:
            return self._run(*command, timeout_s=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(map(str, command))} does not end\n{self.describe()}") from None

    def until(self, what: str, claim: Callable[[], bool]) -> None:
        """Wait until the claim is true. A hang fails."""
        deadline = monotonic() + PATIENCE_S
        while not claim():
            assert monotonic() < deadline, f"this did not become true: {what}\n{self.describe()}"
            threading.Event().wait(0.1)

    def describe(self) -> str:
        """Return what the system does, for the message about a hang."""
        commands = ("systemctl list-jobs", "systemctl status dcsync", "journalctl --no-pager --lines=80")
        return "\n".join(self._run("sh", "-c", command, timeout_s=60).said for command in commands)

    def _run(self, *command: str | Path, timeout_s: float) -> Done:
        done = subprocess.run(
            self.enter(*command),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        return Done(status=done.returncode, said=done.stdout)

    def has(self, path: str) -> bool:
        """Return whether the path exists."""
        return self.run("test", "-e", path).status == 0

    def read(self, path: str | Path) -> str:
        """Return a file's text."""
        done = self.run("cat", path)
        assert done.status == 0, done.said
        return done.said


@contextmanager
def booted(folder: Path, made: Path, *, binds: Mapping[str, Path]) -> Iterator[Machine]:
    """Boot an image, and end it with the block. `folder` takes the working files, `binds` are mounted read-only."""
    place = folder / "machine"
    place.mkdir()
    name = f"bare-{os.getpid()}"
    with own_cgroups(f"dcsync-{name}") as cgroups, _notified(folder / "notify") as receiver:
        nspawn = ["systemd-nspawn", "--quiet", f"--directory={place}", f"--machine={name}", "--hostname=debian"]
        nspawn += ["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no", "--notify-ready=yes"]
        nspawn += ["--private-network", "--resolv-conf=off", "--timezone=off", f"--bind-ro={DOWNLOADED}:{MIRROR}"]
        nspawn += [f"--bind-ro={path}:{target}" for target, path in binds.items()]
        shell = [_BOOT, "sh", str(place), str(made), " ".join(map(str, cgroups))]
        with (folder / "console").open("wb") as console:
            process = subprocess.Popen(
                [*_UNSHARE, *shell, *nspawn, "--boot"],
                stdout=console,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "notify")},
                start_new_session=True,
            )
        try:
            machine = Machine(pid=_leader(receiver, process, folder / "console"))
            with _woken(machine):
                yield machine
        finally:
            end(process, group=True)


@contextmanager
def _woken(machine: Machine) -> Iterator[None]:
    """Ask systemd something every 15 s.

    On a machine with many times more work than processors, systemd 252 was seen to sleep for minutes on a READY=1 in
    its queue, until the next client woke it.
    """
    ended = threading.Event()

    def wake() -> None:
        while not ended.wait(15):
            command = machine.enter("systemctl", "is-system-running")
            subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)

    thread = threading.Thread(target=wake, name="wake systemd", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _notified(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(1)
        yield receiver


def _leader(receiver: socket.socket, process: subprocess.Popen[bytes], console: Path) -> int:
    """Wait until the system says that it is up, and return its first process (systemd-nspawn(1), --notify-ready=)."""
    told = ""
    while "READY=1" not in told.split("\n"):
        assert process.poll() is None, console.read_text(errors="replace")[-4000:]
        with suppress(TimeoutError):
            told += receiver.recv(4096).decode() + "\n"
    found = re.search(r"^X_NSPAWN_LEADER_PID=(\d+)$", told, re.MULTILINE)
    assert found, told
    return int(found[1])


class Terminal:
    """A login shell on a terminal of the machine, at which a person types."""

    def __init__(self, machine: Machine, user: str) -> None:
        self._machine = machine
        # `script` makes the terminal inside, so that every program there knows its name.
        self._process = subprocess.Popen(
            machine.enter("script", "--quiet", "--command", f"su --login {user}", "/dev/null"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        self._name = "/dev/null"
        self.type("PS1='\\n<$?> ' PS2='' PAGER=cat; stty -echo")
        self._name = self.type("tty").said.strip()

    def type(self, line: str, answers: Sequence[tuple[str, Answer]] = (), *, paste: str = "") -> Done:
        """Type a line, answer what it asks, and return when the shell is ready for the next one.

        `answers` has patterns of questions in their order, and what to type then, made from what was printed so far. A
        space in a pattern is also a line break, because questions wrap.
        `paste` is typed when the command reads, then Ctrl-D.
        """
        self._write(f"{line}\n")
        if paste:
            self._wait_until_it_reads(line)
            self._write(f"{paste}\n\x04")
        said, answered, waiting = "", 0, list(answers)
        while True:
            ended = re.search(r"\n<(\d+)> $", said)
            if ended:
                return Done(status=int(ended[1]), said=plain(said[: ended.start()].replace("\r\n", "\n")))
            if waiting and re.search(waiting[0][0].replace(" ", r"\s+"), said[answered:], re.DOTALL):
                answered = len(said)
                self._write(waiting.pop(0)[1](said))
            said += self._read(line, said)

    def close(self) -> None:
        """End the shell and all that it runs."""
        end(self._process, group=True)

    def _wait_until_it_reads(self, line: str) -> None:
        """Wait until the shell, which reads key by key, has given the terminal to the command."""
        self._machine.until(
            f"{line!r} reads", lambda: " icanon" in self._machine.run("stty", "-F", self._name, "-a").said
        )

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def _read(self, line: str, said: str) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        assert ready, f"{line!r} does not end, and said: {said[-4000:]}\n{self._machine.describe()}"
        piece = os.read(self._process.stdout.fileno(), 1 << 16)
        assert piece, f"the shell has ended in {line!r}, and said: {said[-4000:]}"
        return piece.decode(errors="replace")


@contextmanager
def terminal(machine: Machine, user: str = "root") -> Iterator[Terminal]:
    """Log a user in."""
    shell = Terminal(machine, user)
    try:
        yield shell
    finally:
        shell.close()
