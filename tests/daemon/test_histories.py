"""The daemon builds row histories after snapshots, and ends at once while it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.errors import ExitStatus
from tests.rigs.daemon import events, running
from tests.rigs.histories import rows_at, steps_of
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(240)


def with_history(mirror: Mirror) -> None:
    mirror.config["history"] = {"tables": ["*"]}
    mirror.config["hook"] = [{"on": ["alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard.jsonl"]}]


async def test_a_snapshot_is_in_the_history_soon(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_history) as rig:
        jobs = [add_extract(rig.mirror, {"admin_users.csv": b"id\n%d\n" % day}, days_ago=2 - day) for day in range(2)]
        rig.service.poll_now()
        await until(lambda: list(rig.mirror.root.glob("acme/*/history/history.json")), "the history")

        assert steps_of(rig.mirror, "admin_users") == jobs
        assert rows_at(rig.mirror, "admin_users") == [("1",)]
    assert rig.task.result() is ExitStatus.DONE


async def test_a_table_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_history) as rig:
        add_extract(rig.mirror, {"admin_users.csv": b"id,name\n1\n"})
        rig.service.poll_now()
        await until(lambda: list(rig.mirror.root.glob("acme/*/history/history.json")), "the history")
        await rig.settle()
        await rig.pass_time(minutes=20)

        assert [event["code"] for event in events(tmp_path)] == ["R-HISTORY"]
        assert "line 2: it has 1 field and the header 2" in str(events(tmp_path)[0]["message"])
