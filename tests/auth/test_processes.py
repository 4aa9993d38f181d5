"""One chain shared by real processes: many at once, and one that is killed at the worst moment."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import TokenStore
from dcsync.clock import Clock, SystemClock
from dcsync.errors import LoginRequired
from dcsync.sandbox import Fault, Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import FakeClock
from tests.rigs.ended import end_soon

# Waits for the end of its input before it asks, so that all of them ask at once. With a number, it becomes so many
# processes when everything is imported.
PROCESS = """
import asyncio, os, sys
from pathlib import Path
from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import TokenStore
from dcsync.clock import SystemClock
from dcsync.log import configure
from dcsync.tasks import DiskThreads

async def main():
    with DiskThreads(2) as disk:
        endpoint = TokenEndpoint(base_url=sys.argv[2], client=Client(id="sandbox", secret="sandbox-secret"))
        source = RefreshingToken(store=TokenStore(Path(sys.argv[1])), endpoint=endpoint, clock=SystemClock(),
                                 disk=disk, seed=sys.argv[3])
        os.write(1, b"ready\\n")
        sys.stdin.readline()
        os.write(1, (await source.access_token()).encode() + b"\\n")

configure("error", "json", stream=sys.stderr)
children = []
for _ in range(int(sys.argv[4])):
    children.append(os.fork())
    if not children[-1]:
        asyncio.run(main())
        os._exit(0)
if not children:
    asyncio.run(main())
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(World()) as ready:
        yield ready


async def start(folder: Path, sandbox: Sandbox, seed: str, *, processes: int = 0) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    arguments = (str(folder), sandbox.base_url, seed, str(processes))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"


async def test_fifty_processes_at_once_make_one_refresh(tmp_path: Path, sandbox: Sandbox) -> None:
    """docs/project/faults.md T5."""
    seed = sandbox.tokens.issue_refresh_token("tester")
    parent = await start(tmp_path, sandbox, seed, processes=50)
    for _ in range(50):
        await ready(parent)

    out, err = await parent.communicate(b"")

    assert parent.returncode == 0, err.decode()
    tokens = out.decode().splitlines()
    assert (len(tokens), len(set(tokens))) == (50, 1)
    assert sandbox.tokens.refresh_count == 1
    assert sandbox.count("token") == 1


@pytest.mark.parametrize("mode", ["strict", "grace", "revoke-family"])
async def test_a_kill_between_the_server_s_commit_and_our_save(
    tmp_path: Path, sandbox: Sandbox, mode: Literal["strict", "grace", "revoke-family"]
) -> None:
    """docs/project/faults.md T1: with grace it recovers. Otherwise one definite answer requires a sign-in."""
    sandbox.tokens.mode = mode
    seed = sandbox.tokens.issue_refresh_token("tester")
    sandbox.faults.add(Fault(server="token", kind="wait-after-commit", seconds=30))
    process = await start(tmp_path, sandbox, seed)
    await ready(process)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    while sandbox.tokens.refresh_count == 0:  # noqa: ASYNC110 - the sandbox has no event for it
        await asyncio.sleep(0.01)  # noqa: TID251 - another process's work
    process.send_signal(signal.SIGKILL)
    await end_soon(process)
    sandbox.faults.clear()

    store = TokenStore(tmp_path)
    before = store.read()
    with DiskThreads() as disk:
        # Its clock is days behind, so that the intent does not have to be waited for.
        source = make_source(tmp_path, sandbox, disk, FakeClock())
        if mode == "grace":
            assert sandbox.tokens.accepts(await source.access_token())
            assert sandbox.tokens.refresh_count == 1
        else:
            for _ in range(3):
                with pytest.raises(LoginRequired):
                    await source.access_token()
            assert sandbox.count("token", status=400) == 1
            assert store.read() == before  # never wiped


@pytest.mark.parametrize("mode", ["strict", "grace", "revoke-family"])
async def test_a_kill_before_the_request_left(
    tmp_path: Path, sandbox: Sandbox, mode: Literal["strict", "grace", "revoke-family"]
) -> None:
    """docs/project/faults.md T2: the old token works at the restart."""
    sandbox.tokens.mode = mode
    seed = sandbox.tokens.issue_refresh_token("tester")
    process = await start(tmp_path, sandbox, seed)
    await ready(process)
    # It stops while it waits for the lock: everything is prepared, and nothing was sent.
    with TokenStore(tmp_path).locked():
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await asyncio.sleep(0.3)  # noqa: TID251 - another process's way to the lock; being early only weakens the test
        process.send_signal(signal.SIGKILL)
        await end_soon(process)
    assert sandbox.count("token") == 0

    with DiskThreads() as disk:
        token = await make_source(tmp_path, sandbox, disk, SystemClock(), seed=seed).access_token()

    assert sandbox.tokens.accepts(token)


async def test_a_restored_old_token_is_tried_once_and_the_warning_says_what_that_may_do(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """docs/project/faults.md T13: a backup of the state folder comes back."""
    sandbox.tokens.mode = "revoke-family"
    seed = sandbox.tokens.issue_refresh_token("tester")
    clock = FakeClock()
    with DiskThreads() as disk:
        first = make_source(tmp_path, sandbox, disk, clock, seed=seed)
        await first.access_token()
        backup = TokenStore(tmp_path).path.read_bytes()
        clock.advance(3600)
        await make_source(tmp_path, sandbox, disk, clock).access_token()

        TokenStore(tmp_path).path.write_bytes(backup)
        clock.advance(3600)
        with pytest.raises(LoginRequired) as caught:
            await make_source(tmp_path, sandbox, disk, clock).access_token()
        with pytest.raises(LoginRequired):
            await make_source(tmp_path, sandbox, disk, clock).access_token()

    assert sandbox.count("token", status=400) == 1
    assert "dcsync login" in caught.value.advice
    assert "restored from a backup" in caught.value.advice


def make_source(
    folder: Path, sandbox: Sandbox, disk: DiskThreads, clock: Clock, *, seed: str | None = None
) -> RefreshingToken:
    endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret="sandbox-secret"))
    return RefreshingToken(store=TokenStore(folder), endpoint=endpoint, clock=clock, disk=disk, seed=seed)
