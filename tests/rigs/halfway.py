"""A mirror in which a run meets all that it may have to bring together, and its copy for each of many runs.

The manifest is one of the first version. A snapshot is published that has no row (a kill came between its rename and
its commit). A job stands in the staging with one whole file, one that has begun, and one that is not there yet. The
refresh token that is stored has to be spent for the first call.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dcsync.auth.token_store import Intent, TokenPair, TokenStore, fingerprint
from dcsync.manifest import schema
from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from tests.rigs.kills import Witness, assert_rows_have_folders, sent_bytes, write_config
from tests.rigs.processes import Forking, run_of, said
from tests.rigs.sqlite import FILE_VIEW
from tests.rigs.syscalls import Watch

#: Of the job in the staging: whole, begun, not there yet.
WHOLE, BEGUN, ABSENT = "forms_a.csv", "forms_b.csv", "forms_c.csv"
SIZES = {WHOLE: 900_000, BEGUN: 800_000, ABSENT: 300_000}
#: A refresh of which the outcome is not known is not asked for again for so long (docs/project/faults.md T5).
_PATIENCE = timedelta(minutes=1)
#: Where the line is cut: the store sends pieces of 256 KiB, and the last one goes down with the line.
_CUT = 600_000
_SMALL = 20_000


@dataclass(slots=True)
class Halfway:
    """The mirror; `restore` makes it anew as it was in the beginning."""

    folder: Path
    sandbox: Sandbox
    start: Forking
    witness: Witness
    _sent_before: int = 0

    @property
    def store(self) -> TokenStore:
        """Where the chain of tokens is kept."""
        return TokenStore(self.folder / "state")

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.folder / "state/manifest.sqlite"

    def said(self) -> str:
        """Return what all runs so far have said on stderr."""
        return said(self.start.folder)

    def restore(self) -> None:
        """Begin anew, with a token of a chain that is alive."""
        for name in ("mirror", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            # With its hard links and times.
            subprocess.run(["cp", "-a", self.folder / "template" / name, self.folder], check=True)
        self.sign_in()
        self.witness = Witness(self.folder / "mirror", self.sandbox.world)
        assert self.witness.look() == 2
        self._sent_before = sent_bytes(self.sandbox)

    def sign_in(self) -> None:
        """Do what `dcsync login` does."""
        self.store.save(TokenPair(refresh_token=self.sandbox.tokens.issue_refresh_token("anna")))
        self.store.clear_intent()

    async def sync(self, watch: Watch | None = None) -> int:
        """Run `dcsync sync`, look at all that can be seen after it, and return its exit status."""
        argv = ("--config", str(self.folder / "config.toml"), "sync")
        if watch is None:
            async with run_of(self.start, *argv) as run:
                status = await run.wait()
        else:
            status = await self.start.watched(watch, *argv)
        self.witness.look()
        assert_rows_have_folders(self.folder / "state", self.folder / "mirror")
        return status

    def holds_live_token(self) -> bool:
        """Whether the chain that is stored is one that the server still takes."""
        pair = self.store.read()
        return pair is not None and pair.refresh_token in self.sandbox.tokens.live_refresh_tokens

    def doubtful(self) -> Intent | None:
        """Return the refresh of the stored token of which the outcome is not known."""
        pair, intent = self.store.read(), self.store.intent()
        if pair is None or intent is None or intent.spending != fingerprint(pair.refresh_token):
            return None
        return intent

    def let_time_pass(self, intent: Intent) -> None:
        """Let that refresh have been long enough ago to be asked for again."""
        self.store.note_intent(replace(intent, at=intent.at - timedelta(minutes=20)))

    async def finish(self) -> bool:
        """Start again until all is mirrored, and look at what each start makes of the token chain.

        Returns whether a person had to sign in, which is right when the chain was lost, and only then: the server
        spent the token, and what it gave instead never reached the disk.
        """
        signed_in = False
        intent = self.doubtful()
        if intent is not None and not intent.refused and datetime.now(UTC) - intent.at < _PATIENCE:
            # docs/project/faults.md T5: nobody knows, and for a minute nobody asks.
            asked = self.sandbox.count("token")
            assert await self.sync() == 3, self.said()
            assert self.sandbox.count("token") == asked
            self.let_time_pass(intent)
        if not self.holds_live_token():
            assert intent is not None, "the chain is lost, and nothing says that a token was about to be spent"
            assert await self.sync() == 12, self.said()
            asked = self.sandbox.count("token")
            # docs/project/faults.md T6: a definite answer is not asked for again.
            assert await self.sync() == 12, self.said()
            assert self.sandbox.count("token") == asked
            self.sign_in()
            signed_in = True
        assert await self.sync() == 0, self.said()
        self.witness.assert_all_mirrored()
        assert self.holds_live_token()
        return signed_in

    def rows(self) -> list[tuple[object, ...]]:
        """Return what the manifest says of jobs and files, without times and ways."""
        with closing(sqlite3.connect(self.manifest)) as connection:
            connection.execute(FILE_VIEW)
            query = """SELECT job.id, job.state, job.folder, file.name, file.size, file.sha256, version_num
                       FROM alembic_version, job LEFT JOIN file ON file.job = job.id ORDER BY job.id, file.name"""
            return connection.execute(query).fetchall()

    def assert_sent_once(self, *, kills: int) -> None:
        """Look that nothing was sent twice beyond the file that was open at each kill."""
        sent, due = sent_bytes(self.sandbox) - self._sent_before, SIZES[BEGUN] + SIZES[ABSENT]
        assert sent <= due + kills * SIZES[BEGUN]


@asynccontextmanager
async def halfway(start: Forking) -> AsyncIterator[Halfway]:
    """Make the mirror below the starter's folder and serve its sandbox."""
    world, now = World(seed=7), datetime.now(UTC)
    request = world.add_request("Nightly")

    def small(seed: int) -> dict[str, Synthetic]:
        return {f"admin_{number}.csv": Synthetic(_SMALL + number, seed=10 * seed + number) for number in range(3)}

    folder = start.folder / "halfway"  # apart from what the runs say
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
        (folder / "mirror").mkdir(parents=True)
        (folder / "state").mkdir(mode=0o700)
        write_config(folder, sandbox, concurrency=1, login=True)
        mirror = Halfway(folder, sandbox, start, Witness(folder / "mirror", world))
        mirror.sign_in()
        world.add_job(request, completed_at=now - timedelta(days=4), files=small(1), with_archive=False)
        assert await mirror.sync() == 0, mirror.said()
        earlier = mirror.manifest.read_bytes()
        world.add_job(request, completed_at=now - timedelta(days=2), files=small(2), with_archive=False)
        assert await mirror.sync() == 0, mirror.said()
        # The row is not there (yet), and `latest` not moved.
        mirror.manifest.write_bytes(earlier)
        files = {name: Synthetic(size, seed=50 + size) for name, size in SIZES.items()}
        job = world.add_job(request, completed_at=now - timedelta(days=3), files=files, with_archive=False)
        sandbox.faults.add(Fault(server="storage", kind="cut", match=BEGUN, amount=_CUT))
        sandbox.faults.add(Fault(server="storage", kind="hang", match=BEGUN, seconds=60))
        staging = folder / "mirror/.dcsync/staging" / job
        async with run_of(start, "--config", str(folder / "config.toml"), "sync") as run, asyncio.timeout(120):
            while not _has_begun(staging):  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)  # noqa: TID251 - another process's work
            run.send(signal.SIGKILL)
        sandbox.faults.clear()
        assert sorted(path.name for path in staging.iterdir()) == [WHOLE, f"{BEGUN}.part"]
        assert mirror.witness.look() == 2
        downgrade(mirror.manifest, "0001")
        (folder / "template").mkdir()
        for name in ("mirror", "state"):
            (folder / name).rename(folder / "template" / name)
        yield mirror


def _has_begun(staging: Path) -> bool:
    part = staging / f"{BEGUN}.part"
    return part.exists() and part.stat().st_size > 0


def downgrade(path: Path, revision: str) -> None:
    """Take a manifest back to what an older version wrote, by the migrations' own way back."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()
