"""A published snapshot that cannot be opened is neither missing nor green."""

from __future__ import annotations

import errno
import os

import pytest

from dcsync.app.from_config import account_settings
from dcsync.errors import ExitStatus
from dcsync.mirror.disk import disk_error
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.mirroring.run import sync
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, "F-IO"), (errno.EACCES, "F-PERM")])
async def test_it_is_an_alert_until_it_can_be_opened(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    first = add_extract(mirror, tables(1), request=request, days_ago=1)
    await mirror.run()
    has_folder = MirrorRoot.has_folder

    def refuse(self: MirrorRoot, relative: str) -> bool:
        if first[:8] in relative:
            raise disk_error(OSError(number, os.strerror(number)), f"opening {relative}")
        return has_folder(self, relative)

    monkeypatch.setattr(MirrorRoot, "has_folder", refuse)
    second = add_extract(mirror, tables(1, seed=1), request=request)

    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == [second]
    assert (outcome.exit_status, [part.code for part in outcome.broken]) == (ExitStatus.INCOMPLETE, [code])
    (item,) = (await status_of(mirror)).accounts[0].alerts
    assert (item.alert.code, item.alert.subject) == (code, first)
    assert first in item.alert.message
    assert item.alert.hint

    monkeypatch.undo()
    again = await mirror.run()
    assert (again.exit_status, again.published) == (ExitStatus.DONE, [])
    assert (await status_of(mirror)).codes == []


async def test_a_daemon_that_runs_on_notices_that_it_can_be_opened(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It noticed at its next start only."""
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    job = add_extract(mirror, tables(1), request=request)
    await mirror.run()
    has_folder = MirrorRoot.has_folder

    def refuse(_: MirrorRoot, relative: str) -> bool:
        raise disk_error(OSError(errno.EIO, os.strerror(errno.EIO)), f"opening {relative}")

    monkeypatch.setattr(MirrorRoot, "has_folder", refuse)
    accounts = account_settings(mirror.configuration())
    async with mirror.opened() as context:
        (outcome,) = await sync(context, accounts)
        assert [(part.code, part.subject) for part in outcome.broken] == [("F-IO", job)]
        monkeypatch.setattr(MirrorRoot, "has_folder", has_folder)

        (outcome,) = await sync(context, accounts)

    assert (outcome.broken, outcome.exit_status) == ([], ExitStatus.DONE)
    assert (await status_of(mirror)).codes == []
