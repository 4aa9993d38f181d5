"""`dcsync manifest copy`: to PostgreSQL and back, and a password that is never shown."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.cli.group import run
from tests.rigs.json_page import documented
from tests.rigs.mirror import tables
from tests.rigs.postgres import Postgres
from tests.rigs.served import TOKEN, Served, served


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as ready:
        ready.sandbox.world.add_request("My Company Data Extract")
        yield ready


def dcsync(side: Served, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command in this process: starting an interpreter for each takes most of a test's time."""
    out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in {TOKEN: side.token, **(environ or {})}.items():
            patch.setenv(name, value)
        status = run(["--config", str(side.config), "--log-level", "debug", *arguments])
    root.handlers[:] = handlers
    root.setLevel(level)
    return status, out.getvalue(), err.getvalue()


def use(side: Served, manifest: str) -> None:
    """Set a different manifest in the configuration."""
    side.write_config()
    text = side.config.read_text()
    side.config.write_text(text.replace("[state]\n", f"[state]\nmanifest = {json.dumps(manifest)}\n"))


def add_day(side: Served, day: int) -> None:
    world = side.sandbox.world
    request = next(iter(world.requests))
    completed = datetime.now(UTC) - timedelta(days=10 - day)
    world.add_job(request, completed_at=completed, files=tables(3, seed=day))


def sync(side: Served) -> None:
    status, _, errors = dcsync(side, "sync")
    assert status == 0, errors


def published(side: Served) -> int:
    _, out, _ = dcsync(side, "status", "--json")
    (account,) = json.loads(out)["accounts"]
    return int(account["jobs"]["published"])


def test_a_mirror_moves_to_postgresql_and_back_and_the_old_manifest_is_refused(side: Served, database: str) -> None:
    add_day(side, 1)
    sync(side)

    there = dcsync(side, "manifest", "copy", "--to", database, "--json")
    assert there[0] == 0, there[2]
    assert json.loads(there[1])["jobs"] == 1
    assert set(json.loads(there[1])) == documented("`dcsync manifest copy --json`")
    # A host whose configuration was not changed still uses the old manifest, and is refused.
    for command in ("sync", "rebuild", "status"):
        refused = dcsync(side, command)
        assert refused[0] == 14, command
        assert "M-FOREIGN" in refused[2]
        assert "set state.manifest to its new address" in refused[2]
    assert not (side.state / "manifest.sqlite").exists()
    (moved,) = side.state.glob("manifest.sqlite.moved-*")
    kept = moved.read_bytes()
    moved.with_name("manifest.sqlite").write_bytes(kept)
    refused = dcsync(side, "sync")
    assert refused[0] == 14
    assert "M-FOREIGN" in refused[2]
    moved.with_name("manifest.sqlite").unlink()

    use(side, database)
    add_day(side, 2)
    sync(side)
    assert published(side) == 2
    doctor = dcsync(side, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(doctor[1])["checks"]}
    assert checks["manifest"]["level"] == "ok"
    assert "in the database" in checks["manifest"]["message"]
    assert checks["mount"]["level"] == "ok"

    back = dcsync(side, "manifest", "copy", "--to", "sqlite")
    assert back[0] == 0, back[2]
    assert dcsync(side, "sync")[0] == 14
    use(side, "sqlite")
    add_day(side, 3)
    sync(side)
    assert published(side) == 3


def test_a_copy_that_is_lost_for_good_can_be_given_up(side: Served, database: str) -> None:
    add_day(side, 1)
    sync(side)
    assert dcsync(side, "manifest", "copy", "--to", database)[0] == 0
    assert f"remove {side.state / 'moved'}" in dcsync(side, "sync")[2]

    (side.state / "moved").unlink()

    sync(side)
    assert published(side) == 1


def test_an_existing_manifest_is_replaced_only_on_request(side: Served, postgres_server: Postgres) -> None:
    add_day(side, 1)
    sync(side)
    first, second = postgres_server.fresh(), postgres_server.fresh()
    assert dcsync(side, "manifest", "copy", "--to", first)[0] == 0
    use(side, first)
    assert dcsync(side, "manifest", "copy", "--to", second)[0] == 0
    use(side, second)

    refused = dcsync(side, "manifest", "copy", "--to", first)
    replaced = dcsync(side, "manifest", "copy", "--to", first, "--replace")

    assert refused[0] == 3
    assert "--replace" in refused[2]
    assert replaced[0] == 0


def test_an_invalid_or_identical_target_changes_nothing(side: Served) -> None:
    sync(side)

    assert dcsync(side, "manifest", "copy", "--to", "sqlite")[0] == 2
    assert dcsync(side, "manifest", "copy", "--to", "mysql://h/d")[0] == 2
    assert dcsync(side, "manifest", "copy", "--to", "postgresql://dcsync@127.0.0.1:1/d")[0] == 3
    sync(side)


def test_a_rebuild_of_a_shared_manifest_saves_the_previous_one_in_a_file(side: Served, database: str) -> None:
    use(side, database)
    add_day(side, 1)
    sync(side)

    status, out, errors = dcsync(side, "rebuild", "--json")

    assert status == 0, errors
    report = json.loads(out)
    assert len(report["snapshots"]) == 1
    assert Path(report["set_aside"]).exists()
    assert published(side) == 1


def test_the_database_s_password_is_shown_nowhere(side: Served, postgres_server: Postgres, tmp_path: Path) -> None:
    """Neither successful nor failing commands show it, and no file contains it."""
    canary = postgres_server.password
    address = postgres_server.fresh().replace("dcsync@", f"guarded:{canary}@")
    wrong = address.replace(canary, f"{canary}-wrong")
    secret = tmp_path / "database"
    secret.write_text(address)
    secret.chmod(0o600)
    add_day(side, 1)
    said = []
    use(side, f"file:{secret}")
    said += [dcsync(side, *command) for command in (["sync"], ["status"], ["doctor"], ["status", "--json"])]
    assert [status for status, _, _ in said] == [0, 0, 0, 0]
    use(side, "env:DATABASE")
    said.append(dcsync(side, "sync", environ={"DATABASE": address}))
    assert said[-1][0] == 0
    for environ in ({"DATABASE": wrong}, {"DATABASE": canary}, {"DATABASE": address + "?nonsense=1"}, {}):
        said += [dcsync(side, command, environ=environ) for command in ("sync", "status", "doctor", "run")]
        assert said[-1][0] == 2
    use(side, address)
    side.config.chmod(0o644)
    said.append(dcsync(side, "status"))
    assert said[-1][0] == 2

    assert all(canary not in out + errors for _, out, errors in said)
    left = [path for folder in (side.root, side.state) for path in folder.rglob("*") if path.is_file()]
    assert left
    assert [path for path in left if canary.encode() in path.read_bytes()] == []


def test_a_file_as_the_manifest_imports_nothing_of_the_cluster(side: Served) -> None:
    """With a single host, the start must not take longer because of the code for several hosts."""
    code = (
        "import sys; from dcsync.cli.group import run; status = run(sys.argv[1:]); "
        "loaded = {'psycopg', 'procrastinate', 'psycopg_pool'} & set(sys.modules); "
        "sys.exit(status or (f'imported: {loaded}' if loaded else 0))"
    )
    for command in ("sync", "status", "doctor"):
        done = subprocess.run(
            [sys.executable, "-c", code, "--config", str(side.config), command],
            env={**os.environ, TOKEN: side.token},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
