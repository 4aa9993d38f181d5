"""A daemon that is stopped in the middle of a download, for longer than anything it holds is good for (fault D14).

That its timers catch up once, and not with a burst, is in tests/daemon/test_service.py, where a night takes no time.
"""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from dcsync.sandbox.blobs import Blob
from tests.rigs.kills import Witness, write_config
from tests.rigs.mirror import tables
from tests.rigs.processes import forking, run_of, said
from tests.rigs.waiting import until
from tests.torture.conftest import Figure, pick

#: How long a signed URL is good for, and how long the daemon is stopped.
_URL_LIFE_S, _STOPPED_S = 1.0, 1.5
_SIZE, _BYTES_PER_SECOND = 4 << 20, 8 << 20


def hang_up(sandbox: Sandbox) -> None:
    """Drop the store's connections, as one does on which nobody has read for long."""
    server = sandbox._runners[1].server
    assert server is not None
    for connection in server.connections:
        if connection.transport is not None:
            connection.transport.abort()


@pytest.mark.timeout(600)
async def test_a_daemon_that_slept_in_a_download_asks_anew_for_what_has_expired(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    world = World(seed=9)
    request, rounds = world.add_request("Nightly"), pick(20, 3)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "state").mkdir(mode=0o700)
    witness = Witness(tmp_path / "mirror", world)
    options = Options(quota_per_minute=None, url_lifetime_s=_URL_LIFE_S, latency_s=0.05)
    async with Sandbox(world, options=options) as sandbox, forking(tmp_path) as start:
        sandbox.faults.add(Fault(server="storage", kind="slow", match="forms", amount=_BYTES_PER_SECOND, times=None))
        config = write_config(tmp_path, sandbox, concurrency=2, login=True)
        TokenStore(tmp_path / "state").save(TokenPair(refresh_token=sandbox.tokens.issue_refresh_token("anna")))
        async with run_of(start, "--config", str(config), "run") as daemon:
            await until(lambda: sandbox.count("api", path_contains="/jobs") > 0)
            for number in range(rounds):
                files: dict[str, bytes | Blob] = {**tables(10, seed=number), "forms.csv": Synthetic(_SIZE, seed=number)}
                world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)
                signed, refreshed = sandbox.count("api", path_contains="/data/"), sandbox.tokens.refresh_count
                daemon.send(signal.SIGUSR1)
                await until(lambda: sandbox.count("api", path_contains="/data/") > signed)  # noqa: B023 - called here
                await asyncio.sleep(chance.uniform(0.0, 0.5))  # noqa: TID251 - the moment at random

                daemon.send(signal.SIGSTOP)
                await asyncio.sleep(_STOPPED_S)  # noqa: TID251 - its URLs expire meanwhile
                sandbox.tokens.revoke_access()
                hang_up(sandbox)
                daemon.send(signal.SIGCONT)

                await until(lambda: len(witness.snapshots()) == len(world.jobs))
                witness.look()
                # One refresh for all that met a 401, if anything was still to be asked for.
                assert sandbox.tokens.refresh_count - refreshed <= 1
            daemon.send(signal.SIGTERM)
            daemon.send(signal.SIGTERM)
            assert await daemon.wait() == 0, said(tmp_path)
        witness.assert_all_mirrored()
        assert "Traceback" not in said(tmp_path)
        signed_once = sum(len(world.extract(job)) for job in world.jobs)
        again = sandbox.count("api", path_contains="/data/", status=200) - signed_once
        assert again > 0, "no URL had to be asked for again"
        expired, refreshes = sandbox.count("storage", status=403), sandbox.tokens.refresh_count
    figure(
        "stopped in a download until its URLs had expired",
        f"{rounds} times; {again} URLs signed again, {expired} of them after the store had refused an expired one; "
        f"{refreshes} token refreshes; all mirrored",
    )
