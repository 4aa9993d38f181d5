"""What the file systems of a mirror cannot do is an alert from the first run on, until it is mended."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack

import pytest

from dcsync.core.alerts import ALERT_KINDS, AlertCode
from dcsync.errors import ExitStatus
from dcsync.mirror.limits import Limit, LimitKind
from dcsync.ops.limits import LIMIT_CODES, message_of
from tests.rigs.mirror import Mirror, add_extract, status_of, tables
from tests.rigs.odd import mounted


async def limits_of(mirror: Mirror) -> dict[str, str]:
    """Return the path and the code of each alert about a file system."""
    status = await status_of(mirror)
    alerts = [item.alert for account in status.accounts for item in account.alerts]
    return {alert.subject: alert.code.value for alert in alerts if alert.code in LIMIT_CODES.values()}


@pytest.mark.needs_root
async def test_a_mount_below_the_root_is_an_alert_at_the_first_run_and_until_it_is_unmounted(
    mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    account = mirror.root / "acme"
    account.mkdir()
    add_extract(mirror, tables(2))
    with ExitStack() as mounts:
        mounts.enter_context(mounted("-t", "tmpfs", "none", account))
        await mirror.run()

        assert await limits_of(mirror) == {str(account): "F-APART"}
        assert str(account) in capsys.readouterr().out
        await mirror.run()
        assert "place of the mirror limits" not in capsys.readouterr().out
        assert await limits_of(mirror) == {str(account): "F-APART"}

    await mirror.run()
    assert await limits_of(mirror) == {}


async def test_a_mirror_inside_another_one_is_an_alert_until_it_is_moved_out(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.run()
    outer = mirror.root.parent
    (outer / ".dcsync").mkdir()
    (outer / ".dcsync/instance").write_text('{"id": "theirs"}')
    add_extract(mirror, tables(1), days_ago=1)

    assert len((await mirror.run()).published) == 1
    assert await limits_of(mirror) == {str(outer): "M-NESTED"}

    shutil.rmtree(outer / ".dcsync")
    await mirror.run()
    assert await limits_of(mirror) == {}


async def test_a_file_system_that_refuses_chmod_is_an_alert_and_the_check_passes(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    add_extract(mirror, tables(2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", refuse)
        await mirror.run()
        assert await limits_of(mirror) == {str(mirror.root): "F-MODE"}
        assert (await status_of(mirror)).check is ExitStatus.DONE
    await mirror.run()

    assert await limits_of(mirror) == {}


@pytest.mark.parametrize("kind", LimitKind)
@pytest.mark.parametrize("file_system", [None, "zfs"])
def test_each_limit_names_the_path_and_has_a_hint(kind: LimitKind, file_system: str | None) -> None:
    limit = Limit(kind=kind, path="/srv/mirror/acme", file_system=file_system)

    assert "/srv/mirror/acme" in message_of(limit)
    assert ("(zfs)" in message_of(limit)) is (file_system is not None)
    assert ALERT_KINDS[LIMIT_CODES[kind]].hint


def test_no_limit_makes_the_check_fail() -> None:
    assert {ALERT_KINDS[code].exit_status for code in LIMIT_CODES.values()} == {ExitStatus.DONE}
    assert set(LIMIT_CODES.values()) == {AlertCode.F_APART, AlertCode.F_MODE, AlertCode.F_LAYER, AlertCode.M_NESTED}
