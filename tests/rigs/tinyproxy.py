"""A real proxy on loopback: Debian's tinyproxy. Only the proxy can resolve the names that it is given."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.rigs.ended import end
from tests.rigs.ports import free_port

#: Finds a hang, nothing else.
_START_S = 120.0
#: The mount namespace gives the proxy its own /etc/hosts. The shell becomes the proxy, so one process is to be ended.
_WITH_HOSTS = 'mount --bind "$1" /etc/hosts && exec tinyproxy -d -c "$2"'


@dataclass(slots=True, kw_only=True)
class Tinyproxy:
    """A running proxy."""

    folder: Path
    port: int
    login: tuple[str, str] | None = field(repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The proxy's address without a password."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_with_password(self) -> str:
        """The proxy's address with its password."""
        assert self.login is not None
        return f"http://{self.login[0]}:{self.login[1]}@127.0.0.1:{self.port}"

    def connects(self, host: str = "") -> int:
        """Return how many tunnels to a host it was asked for."""
        return self.log().count(f"): CONNECT {host}")

    def log(self) -> str:
        """Return its log."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _WITH_HOSTS,
            "sh",
            *map(str, (self.folder / "hosts", self.folder / "conf")),
        ]
        with (self.folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
        until = monotonic() + _START_S
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "errors").read_text()
            assert monotonic() < until, "tinyproxy did not start"
            threading.Event().wait(0.02)

    def kill(self) -> None:
        """End it at once. Every connection through it breaks."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextmanager
def proxying(
    folder: Path, *, hosts: Sequence[str] = (), login: tuple[str, str] | None = None, denied: Sequence[str] = ()
) -> Iterator[Tinyproxy]:
    """Run a proxy during the block. `hosts` are names of 127.0.0.1, of which it refuses the `denied` ones."""
    place = folder / "tinyproxy"
    place.mkdir()
    port = free_port()
    (place / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in ("localhost", *hosts)))
    (place / "filter").write_text("".join(f"{host}\n" for host in denied))
    (place / "conf").write_text(
        f'Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 200\nLogFile "{place}/log"\nLogLevel Connect\n'
        f'Filter "{place}/filter"\n' + ("" if login is None else f"BasicAuth {login[0]} {login[1]}\n")
    )
    proxy = Tinyproxy(folder=place, port=port, login=login)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.kill()
