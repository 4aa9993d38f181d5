"""Runs inside the container: installs, upgrades, removes and purges the packages, and writes down what it saw."""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
import traceback
from pathlib import Path
from typing import Any, Final

from tests.rigs.units_system import (
    CREDENTIALS,
    ETC,
    MAIN,
    OUT,
    REFRESHING,
    ROOT,
    SHARED,
    STATE,
    Api,
    facts,
    snapshots,
    start_sandbox,
    until,
    write_config,
    write_secret,
)

PACKAGES: Final = Path("/packages")
HOME: Final = Path("/usr/lib/dcsync")
#: A virtual environment that a wheel was installed into, for all users.
ELSEWHERE: Final = Path("/opt/venv")


def command(*words: str | Path) -> dict[str, Any]:
    """Run a command; return its exit status and what it said."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return {"exit": done.returncode, "said": done.stdout + done.stderr}


def dpkg(*words: str | Path) -> dict[str, Any]:
    """Run dpkg, without the triggers of other packages."""
    return command("dpkg", "--no-triggers", "--force-unsafe-io", *words)


def drive() -> None:
    """Do it all in the order of an operator, and leave what was seen in `observed.json`."""
    observed: dict[str, Any] = {}
    api = start_sandbox()
    try:
        for step in (install, run, upgrade, remove, rpm, purge, wheel):
            observed[step.__name__] = step(api)
    except Exception:  # noqa: BLE001 - told to the tests
        observed["broke"] = traceback.format_exc()
    (OUT / "observed.json").write_text(json.dumps(observed, indent=1))


def install(_: Api) -> dict[str, Any]:
    """Install the package on a system that knows nothing of dcsync."""
    installed = dpkg("--install", PACKAGES / "first.deb")
    user = pwd.getpwnam("dcsync")
    return {
        "installed": installed,
        "ids": [user.pw_uid, user.pw_gid],
        "folders": [facts(path) for path in (ROOT, ETC, SHARED, STATE)],
        "version": command("dcsync", "--version"),
        "manual": command("man", "-w", "dcsync"),
        "verify": command("systemd-analyze", "verify", MAIN.name, "dcsync@x.service", "dcsync-sync.timer"),
        "unit": MAIN.show(),
        "enabled": command("systemctl", "is-enabled", MAIN.name)["said"].strip(),
    }


def run(api: Api) -> dict[str, Any]:
    """Configure it as an operator would, and let it mirror."""
    write_secret("client-secret", "sandbox-secret\n")
    write_secret("refresh-token", api.refresh_token)
    (SHARED / "secrets.conf").write_text(f"[Service]\n{CREDENTIALS}")
    write_config(api, auth=REFRESHING, hook="true")
    command("systemctl", "daemon-reload")
    enabled = MAIN.do("enable", "--now")
    until("all that there is has been mirrored", lambda: len(snapshots(ROOT)) == 5)
    return {"enabled": enabled, "unit": MAIN.show()}


def upgrade(_: Api) -> dict[str, Any]:
    """Install the next version over it while the daemon runs."""
    shutil.copytree(HOME, ELSEWHERE, symlinks=True)
    before = MAIN.pid()
    upgraded = dpkg("--install", PACKAGES / "second.deb")
    return {
        "upgraded": upgraded,
        "unit": MAIN.until_state("active", "failed"),
        "same_pid": MAIN.pid() == before,
        "new_file": (HOME / "second").exists(),
        "old_file": (HOME / "first").exists(),
        "config": (ETC / "config.toml").exists(),
        "left": [str(path) for path in Path("/run").glob("dcsync-*")],
    }


def remove(_: Api) -> dict[str, Any]:
    """Remove it while the daemon runs."""
    removed = dpkg("--remove", "data-connector-mirror")
    return {
        "removed": removed,
        "unit": MAIN.show()["LoadState"],
        "kept": [path.exists() for path in (ETC / "config.toml", STATE / "manifest.sqlite", SHARED / "secrets.conf")],
        "snapshots": len(snapshots(ROOT)),
        "left": [str(path) for path in (HOME, Path("/usr/bin/dcsync")) if path.exists()],
    }


def rpm(_: Api) -> dict[str, Any]:
    """Install, upgrade and remove the .rpm. The configuration and the state of the .deb are still there."""
    options = ["--nodeps", "--force-debian"]  # the system's packages are not in its database
    installed = command("rpm", "--install", *options, PACKAGES / "dcsync.rpm")
    MAIN.do("enable", "--now")
    started, before = MAIN.until_state("active", "failed"), MAIN.pid()
    # The scripts run as in an upgrade to another version.
    upgraded = command("rpm", "--upgrade", "--force", *options, PACKAGES / "dcsync.rpm")
    unit, same_pid = MAIN.until_state("active", "failed"), MAIN.pid() == before
    erased = command("rpm", "--erase", "--nodeps", "--force-debian", "data-connector-mirror")
    return {
        "installed": installed,
        "started": started,
        "upgraded": upgraded,
        "unit": unit,
        "same_pid": same_pid,
        "erased": erased,
        "after": MAIN.show()["LoadState"],
        "kept": [path.exists() for path in (ETC / "config.toml", STATE / "manifest.sqlite")],
        "left": [str(path) for path in (HOME, Path("/usr/bin/dcsync"), Path("/run/dcsync-upgrade")) if path.exists()],
    }


def purge(_: Api) -> dict[str, Any]:
    """Purge it. The same script keeps a mirror that is inside the state."""
    purged = dpkg("--purge", "data-connector-mirror")
    gone = not ETC.exists() and not STATE.exists()
    mirror = STATE / "mirror/.dcsync/instance"
    mirror.parent.mkdir(parents=True)
    mirror.touch()
    spared = command("sh", "/opt/dcsync/release/deb/postrm", "purge")
    return {
        "purged": purged,
        "gone": gone,
        "snapshots": len(snapshots(ROOT)),
        "user": pwd.getpwnam("dcsync").pw_name,
        "links": [str(path) for path in Path("/etc/systemd/system").glob("*.wants/dcsync*")],
        "spared": spared,
        "mirror": mirror.exists(),
    }


def wheel(_: Api) -> dict[str, Any]:
    """Install the service of a virtual environment, and start it without a configuration."""
    script = ELSEWHERE / "bin/dcsync"
    script.write_text(script.read_text().replace(f"#!{HOME}", f"#!{ELSEWHERE}"))
    installed = command(script, "service", "install")
    started = MAIN.do("start")
    return {"installed": installed, "started": started, "unit": MAIN.show(), "said": MAIN.journal()}


if __name__ == "__main__":
    drive()
