"""`dcsync init` is killed before a call that changes a file. The next run leads to the first snapshot."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from tests.cli.guide.conftest import SECRET, Home
from tests.rigs.person import answer_all, browser
from tests.rigs.processes import Forking, forking
from tests.rigs.syscalls import Watch

#: This many of the calls are tried, at equal distances. All 59 of them pass.
TRIED = 4


async def guided(start: Forking, home: Home, folder: Path, sync: str, kill_at: int | None = None) -> tuple[Watch, int]:
    """Run it in a home, with all answers, and with this answer to the question for the first sync."""
    answers = {
        "Client ID: ": "sandbox",
        "Client secret": SECRET,
        "Number [1]: ": "1",
        "Callback URL of the app [": home.callback,
        "Mirror folder [": "~/dcsync",
        "local disk [": "~/state",
        "Sign in now? ": "y",
        "part of its name) [1]: ": "1",
        "Name of its folder": "acme",
        "Create the folder now?": "y",
        "Mirror all extracts now?": sync,
    }
    environ = {"HOME": str(folder), "DCSYNC_CONFIG": str(folder / "etc/config.toml")}
    environ |= {"BROWSER": browser(folder.parent), "TERM": "dumb"}
    watch, ended = Watch(folder=folder, kill_at=kill_at), threading.Event()
    ours, theirs = os.openpty()
    try:
        async with asyncio.TaskGroup() as group:
            said = group.create_task(asyncio.to_thread(answer_all, ours, answers, ended))
            try:
                status = await start.watched(watch, *home.init, environ=environ, terminal=os.ttyname(theirs))
            finally:
                ended.set()
    finally:
        os.close(ours)
        os.close(theirs)
    assert SECRET not in said.result()
    assert "Traceback" not in said.result()
    return watch, status


async def test_killed_before_a_call_it_ends_right_when_it_is_run_again(home: Home, tmp_path: Path) -> None:
    world = home.side.sandbox.world
    world.add_job(world.add_request("Nightly", tables=3))
    async with forking(tmp_path) as start:
        (tmp_path / "whole").mkdir()
        watch, status = await guided(start, home, tmp_path / "whole", "later")
        assert status == 0
        calls = len(watch.calls)
        for number in range(TRIED):
            folder = tmp_path / f"home-{number}"
            folder.mkdir()
            watch, _ = await guided(start, home, folder, "later", kill_at=1 + number * calls // TRIED)
            assert watch.killed_before is not None
            _, status = await guided(start, home, folder, "y")
            assert status == 0, watch.killed_before
            assert len(list(folder.glob("dcsync/acme/*/[0-9]*/**/_dcsync.json"))) == 1, watch.killed_before
