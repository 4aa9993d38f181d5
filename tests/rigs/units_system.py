"""The system inside the container: its folders, its units, the API next to them, and configurations."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

OUT: Final = Path("/out")
MARK: Final = Path("/var/mark")
ETC: Final = Path("/etc/dcsync")
PROGRAM: Final = "/usr/local/bin/dcsync"
#: The drop-ins that apply to all units of dcsync.
SHARED: Final = ETC / "service.d"
DROP_INS: Final = Path("/etc/systemd/system")
ROOT: Final = Path("/srv/dcsync")
STATE: Final = Path("/var/lib/dcsync")
METRICS: Final = Path("/run/dcsync/dcsync.prom")
SANDBOX_OUTPUT: Final = Path("/run/sandbox.output")
TLS_OUTPUT: Final = Path("/run/tls-sandbox.output")
#: The authority of the sandbox with TLS, and the proxy with its password.
COMPANY_CA: Final = Path("/run/tls/ca.pem")
PROXY: Final = "http://dcsync:canary-of-the-proxy@127.0.0.1:3128"
#: The roots of the instances, not inside that of the daemon: a mirror inside another mirror is refused.
SLOW_ROOT: Final = Path("/srv/slow")
PROXIED_ROOT: Final = Path("/srv/proxied")
#: What comes in a second on an idle machine may take long beside other tests. Each wait ends when its claim is true.
TIMEOUT_S: Final = 90.0


def until(what: str, claim: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until the claim is true."""
    deadline = monotonic() + timeout_s
    while not claim():
        if monotonic() > deadline:
            message = f"not so after {timeout_s} s: {what}"
            raise TimeoutError(message)
        threading.Event().wait(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of this system."""

    name: str

    def do(self, *command: str) -> dict[str, Any]:
        """Run `systemctl <command> <unit>`; return its exit status and what it said."""
        done = subprocess.run(["systemctl", *command, self.name], check=False, capture_output=True, text=True)
        return {"exit": done.returncode, "said": done.stdout + done.stderr}

    def show(self) -> dict[str, str]:
        """Return the unit's properties."""
        done = subprocess.run(["systemctl", "show", self.name], check=True, capture_output=True, text=True)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def pid(self) -> int:
        """Return the main process's id; 0 when there is none."""
        return int(self.show()["MainPID"])

    def journal(self) -> list[str]:
        """Return what the unit and systemd about it have logged so far."""
        subprocess.run(["journalctl", "--sync"], check=False)
        done = subprocess.run(
            ["journalctl", "--boot", "--output=cat", f"--unit={self.name}"], check=True, capture_output=True, text=True
        )
        return done.stdout.splitlines()

    def new_lines(self, before: int) -> list[str]:
        """Return what was logged after the first `before` lines."""
        return self.journal()[before:]

    def has_spoken(self, before: int) -> bool:
        """Say whether the program itself has logged anything after the first `before` lines."""
        return any(not re.match(r"Reload(ing|ed) |\S+\.service: ", line) for line in self.new_lines(before))

    def until_state(self, *states: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
        """Wait for one of these states; return the unit's properties."""
        until(f"{self.name} is {' or '.join(states)}", lambda: self.show()["ActiveState"] in states, timeout_s)
        return self.show()

    def drop_in(self, text: str) -> None:
        """Change the unit by a drop-in."""
        folder = DROP_INS / f"{self.name}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}")
        subprocess.run(["systemctl", "daemon-reload"], check=True)

    def refused(self) -> dict[str, Any]:
        """Start the unit, which is expected to fail; return how that ended, and whether it was tried again."""
        self.do("reset-failed")
        started = self.do("start")
        with suppress(TimeoutError):
            self.until_state("failed", "inactive", "active")
        ended = self.show()
        threading.Event().wait(1.5)  # RestartSec= of the drop-in is shorter
        return {"start": started, "ended": ended, "later": self.show()}


MAIN: Final = Unit(name="dcsync.service")
SLOW: Final = Unit(name="dcsync@slow.service")
PASS: Final = Unit(name="dcsync-sync.service")
PROBE: Final = Unit(name="dcsync-probe.service")
SANDBOX: Final = Unit(name="sandbox.service")
PROXIED: Final = Unit(name="dcsync@proxied.service")
TLS_SANDBOX: Final = Unit(name="tls-sandbox.service")
TINYPROXY: Final = Unit(name="proxy.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The sandbox that runs next to the daemon, and tokens for it."""

    base_url: str
    hub: str
    access_token: str
    refresh_token: str


def start_sandbox(unit: Unit = SANDBOX, output: Path = SANDBOX_OUTPUT) -> Api:
    """Start a sandbox and read what it prints."""
    unit.do("start")
    # Started means forked: the file is there a moment later.
    until("the sandbox has opened its output", output.exists)
    until("the sandbox has said where it is", lambda: output.read_text().endswith("\n"))
    return Api(**json.loads(output.read_text()))


def write_config(
    api: Api,
    name: str = "config",
    *,
    root: Path = ROOT,
    state: Path = STATE,
    auth: str,
    hook: str = "hook",
    more: str = "",
) -> None:
    """Write a configuration without a secret, as the units' comments advise: root's, readable by the group."""
    path = ETC / f"{name}.toml"
    path.write_text(f"""
[mirror]
root = "{root}"
min_free = 0
strategy = "files"
[state]
dir = "{state}"
[poll]
interval = "1h"
[api]
base_url = "{api.base_url}"
requests_per_minute = 1000
[auth]
method = "token"
client_id = "sandbox"
{auth}
[[hook]]
on = ["snapshot"]
run = ["/usr/local/bin/{hook}", "{state}/hooked"]
[[account]]
name = "sandbox"
id = "{api.hub}"
{more}
""")
    path.chmod(0o640)
    shutil.chown(path, "root", "dcsync")


def write_secret(name: str, value: str) -> None:
    """Write a file for LoadCredential=."""
    path = ETC / name
    path.write_text(value)
    path.chmod(0o600)


REFRESHING: Final = 'client_secret = "credential:client-secret"\nrefresh_token = "credential:refresh-token"'
CREDENTIALS: Final = (
    f"LoadCredential=client-secret:{ETC}/client-secret\nLoadCredential=refresh-token:{ETC}/refresh-token\n"
)
FIXED: Final = 'access_token = "credential:access-token"'


def snapshots(root: Path) -> list[Path]:
    """Return the published snapshots."""
    return sorted(path.parent for path in root.glob("sandbox/*/[0-9]*/**/_dcsync.json"))


def facts(path: Path) -> dict[str, Any]:
    """Return owner and mode."""
    found = path.lstat()
    return {"uid": found.st_uid, "gid": found.st_gid, "mode": oct(found.st_mode & 0o7777)}
