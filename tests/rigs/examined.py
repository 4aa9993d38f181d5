"""A mirror for `doctor` to examine, and its checks by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcsync.app.doctor import diagnose
from dcsync.cluster import stores_for
from dcsync.errors import ExitStatus
from dcsync.ops.doctor.examine import NAMES, Check, Level, exit_status
from tests.rigs.mirror import Mirror

ACCOUNT_CHECKS = ["account.acme", "permission.acme", "requests.acme"]
EVERYTHING = [*NAMES[:-1], *ACCOUNT_CHECKS, NAMES[-1]]
FOREIGN = "00000000-0000-4000-8000-000000000000"


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write_config(mirror: Mirror) -> Path:
    lines = [f"{section} = {toml(value)}" for section, value in mirror.document().items()]
    place = mirror.folder / "config.toml"
    place.write_text("\n".join(lines))
    place.chmod(0o600)
    return place


async def examine(mirror: Mirror) -> dict[str, Check]:
    """Return the checks by name."""
    checks = await diagnose(write_config(mirror), stores_for, environ=mirror.environ, clock=mirror.clock)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def levels(checks: dict[str, Check]) -> dict[str, str]:
    """Return what is not ok."""
    return {name: check.level.value for name, check in checks.items() if check.level is not Level.OK}


def status(checks: dict[str, Check]) -> ExitStatus:
    return exit_status(list(checks.values()))


def chain(mirror: Mirror) -> None:
    """Let the configuration have a refresh token."""
    mirror.environ["SEED"] = mirror.sandbox.tokens.issue_refresh_token("tester")
    mirror.config["auth"] = {
        "method": "token",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "refresh_token": "env:SEED",
    }


def make_state(mirror: Mirror) -> None:
    mirror.state.mkdir(mode=0o700)


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """Return what is below a folder. The call window grows by design; SQLite's side files are its own."""
    own = {"quota", "manifest.sqlite-shm", "manifest.sqlite-wal"}
    found = {path, *path.rglob("*")}
    return {
        str(entry.relative_to(path)): (entry.lstat().st_ino, 0 if entry.is_dir() else entry.lstat().st_mtime_ns)
        for entry in found
        if entry.name not in own
    }
