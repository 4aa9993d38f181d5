"""Disks that are full, out of inodes, read-only, frozen or dying, and what comes after (fault F1 to F8, F12)."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from dcsync.sandbox import Fault
from tests.rigs import aftermath
from tests.rigs.blocklog import dying
from tests.rigs.disks import Workshop, freeze, run, thaw, workshop
from tests.rigs.hatchery import Hatchery, Hatchling
from tests.rigs.mirror import tables
from tests.rigs.stage import Stage, make_world, staged
from tests.torture import trials
from tests.torture.conftest import Figure, need, pick

pytestmark = pytest.mark.timeout(600)

MIB = 1 << 20


@pytest.fixture
def shop() -> Iterator[Workshop]:
    need("mkfs.ext4", "losetup", "fsfreeze", "nbdkit", "nbdfuse", "strace")
    with workshop() as shop:
        yield shop


def add_day(stage: Stage, seed: int, *, size: int = 3000) -> str:
    request = next(iter(stage.world.requests))
    files = tables(4, size=size, seed=seed)
    return stage.world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)


def until(is_so: Callable[[], object], process: Hatchling) -> None:
    deadline = time.monotonic() + 150
    while not is_so():
        assert time.monotonic() < deadline, process.output()[-3000:]
        time.sleep(0.01)  # noqa: TID251 - another process's work


def states(stage: Stage) -> set[str]:
    with suppress(sqlite3.OperationalError):
        return set(aftermath.published(stage.state))
    return set()


@contextmanager
def balloon(place: Path, *, leaves: int) -> Iterator[None]:
    """Take all the room of a file system but so many bytes."""
    path = place / "balloon"
    facts = os.statvfs(place)
    size = max(0, facts.f_bavail * facts.f_frsize - leaves)
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while size > 0:
            size -= file.write(b"x" * min(size, 4096))
    try:
        yield
    finally:
        path.unlink()


def test_a_tree_that_is_given_a_mebibyte_at_a_time(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure
) -> None:
    """What fits is mirrored, what does not is refused with the bytes that it needs; nothing is torn (fault F1)."""
    place = shop.memory("tree", "size=1m")
    with staged(tmp_path, hatchery, make_world(1, big=5 * MIB)) as stage:
        small = [add_day(stage, seed) for seed in (1, 2)]
        stage.root = place / "mirror"
        stage.root.mkdir()
        runs = []
        for size in range(1, 12):
            run("mount", "-o", f"remount,size={size}m", place)
            named = [word for job in stage.world.jobs for word in ("--job", job)]
            ended = stage.run("sync", *named)
            assert stage.look(acked=ended.acked()) == []
            assert "Traceback" not in ended.output
            # The smaller ones fit from the first.
            assert set(small) <= states(stage)
            runs.append(ended.status)
            if ended.status == 0:
                break
            assert ended.status == 3
            assert "F-SPACE" in ended.output
            assert " free of " in ended.output

        assert runs[-1] == 0
        assert runs[:-1] == [3] * (len(runs) - 1)
        assert len(runs) > 4
        assert stage.complete() == []
    figure("a tree with room for 1 MiB more each time", f"{len(runs)} runs, the last one completes; the small ones fit")


def test_a_disk_that_fills_up_while_files_come(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, chance: random.Random
) -> None:
    """Past the look at the free space: partial files are removed, and the room is enough later (faults.md F2)."""
    rounds = pick(12, 3)
    with staged(tmp_path, hatchery, make_world(2, files=8, size=20_000, big=2 * MIB)) as stage:
        stage.sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.4, match="drawings", times=None))
        for number in range(rounds):
            place = shop.memory(f"tree-{number}", "size=16m")
            there = replace(stage, root=place / "mirror", state=tmp_path / f"state-{number}")
            there.root.mkdir()
            there.state.mkdir(mode=0o700)
            process = there.start()
            until(lambda: list(there.root.glob(".dcsync/staging/*/*")), process)  # noqa: B023 - called at once
            with balloon(place, leaves=chance.randrange(0, MIB)):
                ended = process.wait()
                assert "Traceback" not in ended.output
                assert ended.status == 3
                assert "F-SPACE" in ended.output
                assert there.look(acked=ended.acked()) == []
                assert not list(there.root.glob(".dcsync/staging/*/*.part"))
            assert there.complete() == []
    figure(
        "a disk that fills up while files come", f"{rounds} times: nothing partial, all completed once there is room"
    )


def test_a_full_state_folder_spends_no_token(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure
) -> None:
    """No request at the token endpoint without room for its answer; with room everything goes on (fault F3, T6)."""
    place = shop.memory("state", "size=8m")
    steps = [0, *(4096 << number for number in range(pick(9, 6)))]
    with staged(tmp_path, hatchery, make_world(1), chained=True) as stage:
        stage.state = place / "state"
        stage.state.mkdir(mode=0o700)
        assert stage.complete() == []
        tokens, spent = stage.sandbox.tokens, []
        for number, room in enumerate(steps):
            add_day(stage, 10 + number)
            tokens.revoke_access()
            stage.forget_calls()
            with balloon(place, leaves=room):
                before, since = stage.sandbox.count("token"), len(stage.sandbox.calls)
                ended = stage.run()
            spent.append(stage.sandbox.count("token") - before)
            assert ended.status in {0, 3}, ended.output
            assert "Traceback" not in ended.output
            assert stage.look(acked=ended.acked()) == []
            assert aftermath.wrong_with_tokens(stage.state, stage.sandbox, since=since) == []
        assert spent[0] == 0
        assert spent[-1] == 1
        assert stage.complete() == []
    figure("a state folder with 0 bytes to some KiB of room", f"token requests with {steps} bytes: {spent}; none lost")


def test_a_disk_without_inodes_is_said_to_have_none(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure
) -> None:
    place = shop.memory("tree", "size=64m,nr_inodes=60")
    with staged(tmp_path, hatchery) as stage:
        stage.root = place / "mirror"
        stage.root.mkdir()

        ended = stage.run()

        assert ended.status == 3
        assert "F-INODES" in ended.output
        assert " inodes free of 60, and " in ended.output
        assert "F-SPACE" not in ended.output
        assert stage.look() == []
        run("mount", "-o", "remount,nr_inodes=4000", place)
        assert stage.complete() == []
    figure("a disk without inodes", 'refused with the word "inodes"; completed when there are some')


def test_short_writes_are_no_whole_files(tmp_path: Path, hatchery: Hatchery, figure: Figure) -> None:
    need("strace")
    limits = [1_200_000, 1_048_577, 1_499_999][: pick(3, 1)]
    for limit in limits:
        with staged(tmp_path / str(limit), hatchery, make_world(1, big=1_500_000)) as stage:
            assert trials.short_writes(stage, limit=limit) == []
    figure("short writes (RLIMIT_FSIZE)", f"{len(limits)} limits: refused as F-SPACE, completed without the limit")


def test_a_read_only_disk_is_said_and_written_to_again_later(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure
) -> None:
    """No token is spent for what cannot be written; the tree and the state folder in turn (faults.md F7)."""
    for what in ("root", "state"):
        place = shop.memory(what, "size=32m")
        with staged(tmp_path / what, hatchery, make_world(2), chained=True) as stage:
            broken = place / what
            broken.mkdir(mode=0o700)
            stage.root, stage.state = (broken, stage.state) if what == "root" else (stage.root, broken)
            assert stage.complete() == []
            add_day(stage, 1)
            stage.sandbox.tokens.revoke_access()
            before = stage.sandbox.count("token")
            stage.forget_calls()
            run("mount", "-o", "remount,ro", place)

            ended = stage.run()

            assert ended.status in {3, 13}, ended.output
            assert "Traceback" not in ended.output
            assert "ead-only" in ended.output or "cannot be written" in ended.output
            assert stage.sandbox.count("token") == before
            run("mount", "-o", "remount,rw", place)
            assert stage.complete() == []
    figure("a read-only tree, a read-only state folder", "reported, no token used; all completed once writable")


# --- the daemon -------------------------------------------------------------------------------------------------------


@contextmanager
def daemon(stage: Stage, port: int, *argv: str) -> Iterator[Hatchling]:
    stage.more["http"] = f'listen = "127.0.0.1:{port}"'
    process = stage.start("run", *argv)
    try:
        until(lambda: len(states(stage)) == len(stage.world.jobs), process)
        yield process
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait().status == 0, process.output()[-3000:]
    finally:
        process.kill()


def ask(port: int) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", "/healthz")
        document: dict[str, Any] = json.load(connection.getresponse())
        return document
    finally:
        connection.close()


def hangs(pid: int) -> bool:
    """Say whether a thread waits for a disk, and for nothing else (state D)."""
    stats = []
    for place in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the listing and the look.
        with suppress(FileNotFoundError, ProcessLookupError):
            stats.append((place / "stat").read_text())
    return any(stat.rpartition(")")[2].split()[0] == "D" for stat in stats)


@pytest.mark.first
def test_a_frozen_tree_stops_neither_the_pages_nor_the_status(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, unused_tcp_port: int
) -> None:
    """Whoever writes waits, and no signal helps; the loop lives, and goes on after the thaw (faults.md F12)."""
    tree = shop.disk("tree", "ext4")
    with staged(tmp_path, hatchery, make_world(2)) as stage:
        stage.root = tree.mount / "mirror"
        stage.root.mkdir()
        with daemon(stage, unused_tcp_port) as process:
            asked = 0
            job = add_day(stage, 5)
            freeze(tree.mount)
            try:
                os.kill(process.pid, signal.SIGUSR1)
                until(lambda: hangs(process.pid), process)
                for _ in range(pick(40, 10)):
                    assert ask(unused_tcp_port)["status"] in {"ok", "not ok"}
                    asked += 1
                until(lambda: ask(unused_tcp_port).get("problems") == ["F-HUNG"], process)
                assert stage.run("status", "--check").status == 14
                said = stage.run("status", "--json")
                assert json.loads(said.output[said.output.index("{\n") :])["daemon"]["running"] is True
                assert job not in states(stage)
            finally:
                thaw(tree.mount)
            until(lambda: job in states(stage), process)
        assert aftermath.incomplete(stage.root, stage.state, stage.world) == []
    figure("a frozen file system under the daemon", f"{asked} answers of /healthz, dcsync status too; continues thawed")


def test_a_daemon_goes_on_when_its_disk_is_mounted_again(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, unused_tcp_port: int
) -> None:
    """The file system gives up and turns read-only; it is mounted anew, and nobody starts the daemon again (F7)."""
    tree = shop.disk("tree", "ext4", options="errors=remount-ro")
    with staged(tmp_path, hatchery, make_world(2)) as stage:
        stage.root = tree.mount / "mirror"
        stage.root.mkdir()
        with daemon(stage, unused_tcp_port) as process:
            run("mount", "-o", "remount,abort", tree.mount)
            job = add_day(stage, 5)
            os.kill(process.pid, signal.SIGUSR1)
            until(lambda: '"run ended", "level": "warning"' in process.output(), process)
            assert ask(unused_tcp_port)["status"] == "not ok"
            assert job not in states(stage)

            run("umount", "--lazy", tree.mount)
            tree.detach()
            tree.attach()
            os.kill(process.pid, signal.SIGUSR1)

            until(lambda: job in states(stage), process)
        assert "Traceback" not in process.output()
        assert stage.complete() == []
    figure("a file system that turns read-only under the daemon", "reported; it continues once mounted again")


def test_a_dying_disk_keeps_nothing_that_it_lost(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, chance: random.Random
) -> None:
    """Writes fail from some moment on: what was acked is there when the cache is gone (fault F8, fsyncgate)."""
    rounds, acks = pick(12, 3), 0
    for number in range(rounds):
        with (
            dying(shop, f"disk-{number}", "ext4") as (disk, refusing),
            staged(tmp_path / str(number), hatchery) as stage,
        ):
            stage.root = disk.mount / "mirror"
            stage.root.mkdir()
            run("sync", "--file-system", disk.mount)
            process = stage.start()
            wanted = chance.randrange(1, 60)
            until(
                lambda: sum(event.kind == "step" for event in process.events()) >= wanted,  # noqa: B023 - at once
                process,
            )
            refusing.touch()
            ended = process.wait()
            assert "Traceback" not in ended.output
            assert ended.status in {0, 3, 14}
            refusing.unlink()
            # Mounted anew, all is read from the disk.
            disk.again()
            assert stage.look(acked=ended.acked()) == []
            acks += len(ended.acked())
            assert stage.complete() == []
    figure("a disk whose writes begin to fail", f"{rounds} times, {acks} acks: all there without the cache")
