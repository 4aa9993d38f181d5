"""An account gets another name: nothing is downloaded again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.errors import MirrorLocked
from dcsync.manifest.rename import rename_account
from dcsync.mirror import rename as mirror_rename
from dcsync.ops import renamed_accounts
from dcsync.ops.integrity.verify import verify
from dcsync.ops.recovery import recover
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables
from tests.rigs.renamed import AtWork, codes, configure, fill, found, left, verified

OTHER = "{request}/of-{account}/{date:%Y-%m-%d}/{job}"
MIXED = "{account}-{request}/{date:%Y-%m-%d}/{job}"
LAYOUTS = ["dated", "hive", OTHER, MIXED]


class Cut(Exception):
    """Ends the work where a kill would."""


def cut_after_one(function: Any) -> Any:
    """Return a function that does its work, as far as that takes one call, and is killed then."""
    if function is rename_account:
        return fail

    def once(*args: Any) -> None:
        function(*args)
        raise Cut

    return once


def fail(*_: object, **__: object) -> Any:
    raise Cut


async def states(mirror: Mirror, account: str) -> dict[str, JobState]:
    async with mirror.opened() as context:
        jobs = await context.manifest.jobs(AccountName(account))
        return {str(job): known.state for job, known in jobs.items()}


def lose_manifest(mirror: Mirror) -> None:
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()


async def assert_renamed(mirror: Mirror, before: dict[str, str], known: dict[str, JobState], fetched: int) -> None:
    outcome = await mirror.sync_one()
    assert (outcome.published, outcome.failed, outcome.error) == ([], [], None)
    assert mirror.sandbox.count("storage") == fetched
    assert await states(mirror, "new") == known
    assert await states(mirror, "acme") == {}
    assert await left(mirror) == []
    assert (await verified(mirror)).damage == []
    assert found(mirror).keys() == before.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_renamed_account_keeps_its_snapshots_without_a_download(mirror: Mirror, layout: str) -> None:
    if layout == MIXED:
        mirror.config["mirror"] = {"latest": "none"}
    jobs = await fill(mirror, layout)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    assert sorted(known.values()).count(JobState.PRUNED) == 1
    configure(mirror, "new")

    await assert_renamed(mirror, before, known, fetched)

    expected = {"dated": ("acme/", "new/"), "hive": ("account=acme/", "account=new/"), OTHER: ("of-acme", "of-new")}
    old, new = expected.get(layout, ("", ""))
    assert found(mirror) == {job: path.replace(old, new, 1) if old else path for job, path in before.items()}
    job = add_extract(mirror, tables(2, seed=7))
    assert [done.job for done in (await mirror.sync_one()).published] == [job]
    assert await states(mirror, "new") == {**known, job: JobState.PUBLISHED}
    assert len(jobs) == len(known)


@pytest.mark.parametrize("layout", ["dated", OTHER])
@pytest.mark.parametrize("cut", ["rename_entry", "after the first folder", "settled", "rename_account"])
@pytest.mark.parametrize("manifest", ["current", "lost"])
async def test_a_rename_that_was_killed_is_finished_by_the_next_start(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, layout: str, cut: str, manifest: str
) -> None:
    await fill(mirror, layout)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    configure(mirror, "new")
    calls, rename = 0, mirror_rename.rename_entry

    def fail(*_: object, **__: object) -> Any:
        raise Cut

    def rename_one(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Cut
        rename(*args)

    with monkeypatch.context() as patch:
        match cut:
            case "after the first folder":
                patch.setattr(renamed_accounts, "rename_entry", rename_one)
            case "settled":
                patch.setattr(renamed_accounts, "rename_account", fail)
            case name:
                patch.setattr(renamed_accounts, name, fail)
        if cut != "after the first folder" or layout == OTHER:
            with pytest.raises(Cut):
                await mirror.sync()
    if manifest == "lost":
        lose_manifest(mirror)

    await assert_renamed(mirror, before, known, fetched)


async def test_a_rebuild_after_a_rename_knows_the_account_by_its_id(mirror: Mirror) -> None:
    """Each `_dcsync.json` still has the old name, because published snapshots never change."""
    await fill(mirror)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    configure(mirror, "new")
    await mirror.sync()
    lose_manifest(mirror)

    await assert_renamed(mirror, before, known, fetched)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("old_name", ["is free", "is that of another account"])
async def test_a_rebuild_joins_the_snapshots_from_before_and_after_a_rename(
    mirror: Mirror, layout: str, old_name: str
) -> None:
    if layout == MIXED:
        mirror.config["mirror"] = {"latest": "none"}
    await fill(mirror, layout)
    configure(mirror, "new")
    await mirror.sync()
    add_extract(mirror, tables(2, seed=7))
    await mirror.sync()
    before, known, fetched = found(mirror), await states(mirror, "new"), mirror.sandbox.count("storage")
    assert sorted(known.values()).count(JobState.PRUNED) == 1
    if old_name == "is that of another account":
        configure(mirror, "new", acme="11111111-1111-4111-8111-111111111111")
    lose_manifest(mirror)

    assert [outcome.published for outcome in await mirror.sync()] == [[]] * len(mirror.config["account"])
    assert mirror.sandbox.count("storage") == fetched
    assert await states(mirror, "new") == known
    assert await states(mirror, "acme") == {}
    assert await left(mirror) == []
    assert found(mirror) == before


@pytest.mark.parametrize("there", [False, True])
async def test_a_rename_keeps_latest_and_leaves_none_behind(mirror: Mirror, there: bool) -> None:
    jobs = await fill(mirror)
    if there:
        (mirror.root / "new").mkdir()
    configure(mirror, "new")

    await mirror.run()

    assert not (mirror.root / "acme").exists()
    shown = {sidecar(path)["job"]["id"] for path in mirror.root.glob("new/*/latest")}
    assert shown == {jobs[-1], jobs[-2]}
    assert await codes(mirror) == set()


@pytest.mark.parametrize("layout", ["dated", OTHER])
@pytest.mark.parametrize("killed", [False, True])
async def test_an_existing_folder_of_the_new_name_keeps_its_files_and_gets_the_snapshots(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, layout: str, killed: bool
) -> None:
    await fill(mirror, layout)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    old = mirror.root / "acme" if layout == "dated" else next(mirror.root.glob("*/of-acme"))
    new = old.with_name(old.name.replace("acme", "new"))
    new.mkdir()
    for folder, text in ((new, "of somebody"), (old, "of somebody else")):
        (folder / "notes.txt").write_text(text)
    configure(mirror, "new")
    with monkeypatch.context() as patch:
        for point in ("rename_entry", "rename_account") if killed else ():
            patch.setattr(renamed_accounts, point, cut_after_one(getattr(renamed_accounts, point)))
            with pytest.raises(Cut):
                await mirror.sync()

    await assert_renamed(mirror, before, known, fetched)

    assert (new / "notes.txt").read_text() == "of somebody"
    assert (old / "notes.txt").read_text() == "of somebody else"
    assert await codes(mirror) == set()


async def test_a_rename_into_a_copy_moves_nothing_and_the_advice_finishes_it(mirror: Mirror) -> None:
    await fill(mirror)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    shutil.copytree(mirror.root / "acme", mirror.root / "new", symlinks=True)
    configure(mirror, "new")
    async with mirror.opened():
        pass

    assert ("C-ACCOUNT", "acme") in await codes(mirror)
    assert all((mirror.root / path / "_dcsync.json").exists() for path in before.values())

    shutil.move(mirror.root / "new", mirror.root.parent / "elsewhere")
    lose_manifest(mirror)
    await assert_renamed(mirror, before, known, fetched)
    assert await codes(mirror) == set()


@pytest.mark.parametrize("layout", ["dated", OTHER])
@pytest.mark.parametrize("point", ["rename_entry", "rename_account"])
@pytest.mark.parametrize("name", ["acme", "third"])
async def test_after_a_killed_rename_the_configuration_may_have_any_name(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, layout: str, point: str, name: str
) -> None:
    await fill(mirror, layout, days=6)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    configure(mirror, "new")
    with monkeypatch.context() as patch:
        patch.setattr(renamed_accounts, point, cut_after_one(getattr(renamed_accounts, point)))
        with pytest.raises(Cut):
            await mirror.sync()
    configure(mirror, name)

    outcome = await mirror.sync_one()

    assert (outcome.published, mirror.sandbox.count("storage")) == ([], fetched)
    assert await states(mirror, name) == known
    assert found(mirror) == {job: path.replace("acme", name, 1) for job, path in before.items()}
    assert await left(mirror) == []


async def test_an_account_with_the_id_of_another_one_is_an_alert_until_the_id_is_corrected(mirror: Mirror) -> None:
    await fill(mirror)
    other = "11111111-1111-4111-8111-111111111111"
    assert await codes(mirror) == set()
    for ids, expected in (
        ({"acme": other, "new": mirror.world.hub_id}, {("C-ACCOUNT", "acme")}),
        ({"acme": mirror.world.hub_id, "new": other}, set[tuple[str, str]]()),
    ):
        configure(mirror, **ids)
        async with mirror.opened():
            pass

        assert await codes(mirror) == expected
    assert {path.split("/")[0] for path in found(mirror).values()} == {"acme"}


@pytest.mark.parametrize("layout", ["dated", OTHER])
async def test_known_damage_stays_an_alert_after_a_rename(mirror: Mirror, layout: str) -> None:
    await fill(mirror, layout)
    damaged = mirror.root / next(iter(found(mirror).values())) / "admin_table_000.csv"
    damaged.chmod(0o644)
    damaged.write_bytes(b"x")
    async with mirror.opened() as context:
        await verify(context, account_settings(mirror.configuration()), records=True)
    assert await codes(mirror) == {("V-DAMAGED", "")}
    configure(mirror, "new")

    await mirror.sync()

    (account,) = (await status_of(mirror)).accounts
    (alert,) = [item.alert for item in account.alerts]
    assert alert.code.value == "V-DAMAGED"
    path = str(damaged.relative_to(mirror.root)).replace("acme", "new", 1)
    assert (mirror.root / path).exists()
    assert path in alert.message


async def test_an_account_is_renamed_back(mirror: Mirror) -> None:
    await fill(mirror)
    before, known, fetched = found(mirror), await states(mirror, "acme"), mirror.sandbox.count("storage")
    for name in ("new", "acme"):
        configure(mirror, name)
        await mirror.sync()

    assert (found(mirror), await states(mirror, "acme")) == (before, known)
    assert mirror.sandbox.count("storage") == fetched


async def test_of_two_accounts_with_the_same_id_each_keeps_its_own_data_requests(mirror: Mirror) -> None:
    """Both get another name in the same night. A third account with their ID is new, and wants something else."""
    await fill(mirror)
    jobs = found(mirror)
    mine = {"one": ["My *"], "two": ["Other"], "three": ["Third"]}

    def configure_both(**names: str) -> None:
        identifier = mirror.world.hub_id
        mirror.config["account"] = [
            {"name": name, "id": identifier, "requests": mine[whose]} for whose, name in names.items()
        ]

    shutil.rmtree(mirror.root)
    mirror.root.mkdir()
    shutil.rmtree(mirror.state)
    configure_both(one="acme", two="bravo")
    await mirror.sync()
    fetched = mirror.sandbox.count("storage")
    configure_both(two="second", one="first", three="new")

    await mirror.sync()

    assert mirror.sandbox.count("storage") == fetched
    assert found(mirror).keys() <= jobs.keys() | set(await states(mirror, "first"))
    assert {path.split("/")[0] for path in found(mirror).values()} == {"first", "second"}
    assert await left(mirror) == []


async def test_a_rename_while_other_hosts_are_running_is_refused(mirror: Mirror) -> None:
    await fill(mirror)
    before = found(mirror)
    configure(mirror, "new")
    async with open_mirror(mirror.configuration(), mirror.stores(), role="sync", clock=mirror.clock) as opened:
        context = replace(opened, peers=AtWork())

        with pytest.raises(MirrorLocked, match="the account acme has the name new now") as caught:
            await recover(context, account_settings(mirror.configuration()))

    assert "stop the daemons of all hosts" in caught.value.advice
    assert found(mirror) == before
