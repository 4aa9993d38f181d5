from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.app.pending_requests import NAME, PendingRequests
from dcsync.core.model import AccountId
from dcsync.core.new_request import NewRequest
from tests.fakes import NOON

ACCOUNT = AccountId("b1b40e11-0000-4000-8000-000000000001")
WANTED = NewRequest(service_groups=("admin",), starts_at=NOON, description="Nightly")


def test_a_begun_attempt_is_found_by_the_next_command_until_it_has_ended(tmp_path: Path) -> None:
    PendingRequests(tmp_path).note(ACCOUNT, WANTED, NOON)

    later = replace(WANTED, starts_at=NOON + timedelta(hours=1))
    assert PendingRequests(tmp_path).begun(ACCOUNT, later) == NOON
    PendingRequests(tmp_path).forget(ACCOUNT, later)
    assert PendingRequests(tmp_path).begun(ACCOUNT, WANTED) is None


def test_another_data_request_is_not_taken_for_it(tmp_path: Path) -> None:
    PendingRequests(tmp_path).note(ACCOUNT, WANTED, NOON)

    for other in (replace(WANTED, description="Weekly"), replace(WANTED, service_groups=("all",))):
        assert PendingRequests(tmp_path).begun(ACCOUNT, other) is None
    assert PendingRequests(tmp_path).begun(AccountId("b1b40e11-0000-4000-8000-000000000002"), WANTED) is None


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"a": 1}'])
def test_a_file_that_cannot_be_used_has_no_notes(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)

    assert PendingRequests(tmp_path).begun(ACCOUNT, WANTED) is None


def test_the_file_names_no_callback(tmp_path: Path) -> None:
    PendingRequests(tmp_path).note(ACCOUNT, replace(WANTED, callback_url="https://example.com/callback/S3CRET"), NOON)

    assert "S3CRET" not in (tmp_path / NAME).read_text()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
