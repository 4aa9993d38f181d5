"""Everything is read again: each problem is found, and no other."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.model import JobId
from dcsync.errors import ExitStatus
from dcsync.manifest import SnapshotRows
from dcsync.mirror import adopt
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.integrity.report import Damage, Kind, Outcome
from dcsync.ops.integrity.verify import Part, verify_nightly
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.verified import ACME, spoil, verified


def flip_a_bit(path: Path, chance: random.Random) -> None:
    body = bytearray(path.read_bytes())
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    spoil(path, bytes(body))


def told(found: Sequence[Damage]) -> set[tuple[str, str]]:
    return {(item.kind.value, item.path.rpartition("/")[2]) for item in found}


def files_of(mirror: Mirror) -> list[Path]:
    return [path for path in mirror.visible() if not path.is_symlink()]


# --- item ----------------------------------------------------------------------------------------------------------


async def test_a_sound_mirror_has_no_findings(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, {**tables(5), "new.csv": b"%d" % day, "a:b.csv": b""}, days_ago=3 - day, with_archive=True)
    await mirror.sync()

    report = await verified(mirror)

    assert report.damage == []
    assert report.exit_status is ExitStatus.DONE
    assert report.snapshots == 3


async def test_200_flipped_bits_in_200_files_are_all_found_with_no_false_alarm(mirror: Mirror) -> None:
    """docs/project/faults.md F17."""
    chance = random.Random(17)
    for day in range(3):
        files = {f"{day}-{number:03}.csv": chance.randbytes(chance.randrange(1, 3000)) for number in range(120)}
        add_extract(mirror, files, days_ago=3 - day)
    await mirror.sync()
    everything = files_of(mirror)
    assert len(everything) == 3 * 122
    # Of each snapshot its own two files, too.
    own = [path for path in everything if path.name in {"_dcsync.json", "SHA256SUMS"}]
    others = [path for path in everything if path not in own]
    damaged = [*own, *chance.sample(others, 200 - len(own))]
    for path in damaged:
        flip_a_bit(path, chance)

    report = await verified(mirror)

    assert len(damaged) == 200
    assert sorted(item.path for item in report.damage) == sorted(str(path.relative_to(mirror.root)) for path in damaged)
    assert {item.kind for item in report.damage} == {Kind.CHANGED}
    assert report.exit_status is ExitStatus.INCOMPLETE


async def test_every_kind_of_damage_has_its_name(mirror: Mirror, tmp_path: Path) -> None:
    job = add_extract(mirror, tables(6))
    await mirror.sync()
    folder = mirror.snapshot_of(job)
    files = sorted(folder.glob("*.csv"))
    spoil(files[0], files[0].read_bytes()[:-1])
    spoil(files[1], files[1].read_bytes() + b"x")
    spoil(files[2], b"x" * files[2].stat().st_size)
    files[3].unlink()
    files[4].unlink()
    files[4].mkdir()
    files[5].rename(tmp_path / "moved")
    files[5].symlink_to(tmp_path / "moved")
    (folder / "stray.csv").write_bytes(b"")
    (folder / "deep").mkdir()
    (folder / "deep/stray.csv").write_bytes(b"")

    report = await verified(mirror)

    assert told(report.damage) == {
        ("truncated", files[0].name),
        ("changed", files[1].name),
        ("changed", files[2].name),
        ("missing", files[3].name),
        ("missing", files[4].name),
        ("changed", files[5].name),
        ("extra", "stray.csv"),
    }
    assert len(report.damage) == 8
    assert {item.job for item in report.damage} == {job}


async def test_a_missing_folder_is_one_finding(mirror: Mirror) -> None:
    add_extract(mirror, tables(3), days_ago=1)
    job = add_extract(mirror, tables(3, seed=1))
    await mirror.sync()
    path = mirror.snapshot_of(job)
    shutil.rmtree(path)

    (item,) = (await verified(mirror)).damage

    assert (item.kind, item.path) == (Kind.MISSING, str(path.relative_to(mirror.root)))


async def test_a_symlink_in_place_of_a_folder_is_not_followed(mirror: Mirror, tmp_path: Path) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    path = mirror.snapshot_of(job)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")

    (item,) = (await verified(mirror)).damage

    assert item.kind is Kind.CHANGED
    assert "symlink" in item.detail


async def test_a_snapshot_that_the_manifest_does_not_know_is_extra(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    shutil.copytree(mirror.snapshot_of(job), mirror.root / "acme/copy")

    (item,) = (await verified(mirror)).damage

    assert (item.kind, item.path, item.job) == (Kind.EXTRA, "acme/copy", None)


async def test_a_file_that_agrees_with_the_sums_and_not_with_the_manifest_is_not_called_damaged(mirror: Mirror) -> None:
    job = add_extract(mirror, {"a.csv": b"content"})
    await mirror.sync()
    async with mirror.opened() as context:
        records = SnapshotRows(context.manifest)
        record, found = await records.record(ACME, JobId(job)), await records.snapshot(ACME, JobId(job))
        assert record is not None
        assert found is not None
        (stored,) = found[0].files
        wrong = type(stored)(**{name: getattr(stored, name) for name in stored.__slots__} | {"sha256": "0" * 64})
        await records.restore(ACME, record, files=[wrong], sidecar_sha256=found[1])

    report = await verified(mirror, repair=True)

    details = {item.path.rpartition("/")[2]: item for item in report.damage}
    assert "dcsync rebuild" in details["a.csv"].detail
    assert details["a.csv"].outcome is Outcome.FOUND
    assert (mirror.snapshot_of(job) / "a.csv").read_bytes() == b"content"


async def test_a_snapshot_that_is_published_during_the_look_is_not_called_unknown(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, tables(1, seed=1))
    find, found = adopt.find_snapshots, list[str]()

    async def publish() -> None:
        await mirror.sync()

    def late(root: MirrorRoot, **options: Any) -> Iterator[str]:
        # The manifest was asked just before.
        asyncio.run_coroutine_threadsafe(publish(), loop).result(120)
        found.extend(find(root, **options))
        return iter(found)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(adopt, "find_snapshots", late)

    report = await verified(mirror)

    assert str(mirror.snapshot_of(job).relative_to(mirror.root)) in found
    assert report.damage == []


async def test_each_inode_is_read_once_and_is_amiss_in_every_snapshot_that_shares_it(mirror: Mirror) -> None:
    shared = b"id\n" + b"x" * 49_997
    jobs = [add_extract(mirror, {"big.csv": shared}, days_ago=4 - day) for day in range(4)]
    await mirror.sync()

    sound = await verified(mirror)
    spoil(mirror.snapshot_of(jobs[0]) / "big.csv", b"y" * 50_000)
    report = await verified(mirror)

    assert sound.read_bytes < 2 * 50_000
    assert sorted(str(item.job) for item in report.damage) == sorted(jobs)


@pytest.mark.needs_tool("strace")
@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
async def test_a_read_error_is_unreadable_and_not_missing(mirror: Mirror, error: str) -> None:
    """docs/project/faults.md F9."""
    job = add_extract(mirror, tables(3))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "admin_table_001.csv"
    code = (
        "import asyncio, json, sys\n"
        "from dcsync.app.mirror import open_mirror_unlocked\n"
        "from dcsync.app.from_config import account_settings\n"
        "from dcsync.cluster import stores_for\n"
        "from dcsync.config import Config\n"
        "from dcsync.ops.integrity.verify import verify\n"
        "async def main():\n"
        "    config = Config.model_validate(json.loads(sys.argv[1]))\n"
        "    async with open_mirror_unlocked(config, stores_for(config, {})) as context:\n"
        "        report = await verify(context, account_settings(config))\n"
        "    print(json.dumps(report.json()['findings']))\n"
        "asyncio.run(main())\n"
    )
    command = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path)),
        *("-e", "trace=pread64", "-e", f"inject=pread64:error={error}"),
        *(sys.executable, "-c", code, json.dumps(mirror.document())),
    ]
    out = await asyncio.to_thread(lambda: subprocess.check_output(command, stderr=subprocess.PIPE, text=True))

    (item,) = json.loads(out.splitlines()[-1])
    assert (item["kind"], item["path"]) == ("unreadable", str(path.relative_to(mirror.root)))
    assert item["detail"]


async def test_reading_keeps_to_the_rate(mirror: Mirror) -> None:
    add_extract(mirror, {"a.csv": b"x" * 3_000_000, "b.csv": b"y" * 500_000})
    await mirror.sync()
    before = mirror.clock.monotonic()

    report = await verified(mirror, rate=1_000_000)

    assert report.read_bytes > 3_500_000
    assert mirror.clock.monotonic() - before == pytest.approx(report.read_bytes / 1e6, abs=0.01)


# --- parts ------------------------------------------------------------------------------------------------------------


async def test_all_parts_together_read_each_content_once(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, {**tables(40), "new.csv": b"%d" % day}, days_ago=3 - day)
    await mirror.sync()
    whole = await verified(mirror)

    parts = [await verified(mirror, part=(number, 7)) for number in range(1, 8)]

    assert sum(report.files for report in parts) == whole.files
    assert sum(report.read_bytes for report in parts) == whole.read_bytes
    assert all(report.files for report in parts)


async def test_what_is_amiss_is_found_by_exactly_one_part(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(20))
    await mirror.sync()
    folder = mirror.snapshot_of(job)
    for path in sorted(folder.iterdir()):
        flip_a_bit(path, random.Random(str(path)))

    found = [item for number in range(1, 6) for item in (await verified(mirror, part=(number, 5))).damage]

    assert sorted(item.path for item in found) == sorted(
        str(path.relative_to(mirror.root)) for path in folder.iterdir()
    )


def test_a_content_s_part_never_changes() -> None:
    """Else what moves from a later part to an earlier one is not read for a whole round."""
    assert [number for number in range(1, 31) if Part(number=number, of=30).has("0" * 64)] == [14]


async def test_nights_go_through_the_parts_and_pass_over_none(mirror: Mirror) -> None:
    add_extract(mirror, tables(3))
    await mirror.sync()
    accounts = account_settings(mirror.configuration())
    seen = []
    for _ in range(5):
        async with mirror.opened() as context:
            seen.append((await verify_nightly(context, accounts, days=3)).part)
    async with mirror.opened() as context:
        seen.append((await verify_nightly(context, accounts, days=4)).part)

    assert seen == [(1, 3), (2, 3), (3, 3), (1, 3), (2, 3), (1, 4)]
