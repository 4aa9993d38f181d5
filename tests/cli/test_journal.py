"""What goes to the journal of systemd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcsync.cli.journal import is_journal
from dcsync.sandbox import Fault
from tests.cli.test_told_once import REFUSED, add_job
from tests.rigs.ended import ending
from tests.rigs.served import TOKEN, Served

pytestmark = pytest.mark.timeout(300)


def in_the_journal(side: Served, *arguments: str) -> list[str]:
    """Return the lines that a command of a service writes to the journal on stderr."""
    ours, theirs = os.pipe()
    status = os.fstat(theirs)
    with os.fdopen(ours) as lines:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "dcsync", "--config", side.config, *arguments],
                env={**os.environ, TOKEN: side.token, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=theirs,
            )
        finally:
            os.close(theirs)
        with ending(process):
            return lines.read().splitlines()


def test_what_a_service_says_of_a_failure_has_its_priority_in_the_journal(side: Served) -> None:
    """`journalctl -p warning` finds it, although it is not of the log."""
    add_job(side)
    side.sandbox.faults.add(Fault(server="api", kind="status", status=422, body=REFUSED, match="listing", times=None))

    failed = in_the_journal(side, "sync")
    side.config.write_text("[mirror]\n")
    wrong = in_the_journal(side, "run")

    assert [line[:3] for line in failed] == ["<4>", "<4>"]
    assert "is failed: GET " in failed[0]
    assert {line[:3] for line in wrong} == {"<3>"}
    assert "mirror.root" in "".join(wrong)


def test_only_the_output_that_the_variable_names_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as journal, (tmp_path / "b").open("w") as other:
        status = os.fstat(journal.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

        assert is_journal(journal.fileno(), environ)
        assert not is_journal(other.fileno(), environ)
        assert not is_journal(journal.fileno(), {})
        closed = journal.fileno()
    assert not is_journal(closed, environ)
