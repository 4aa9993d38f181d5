"""The fakes meet the ports they stand in for; what has not been learnt yet is nothing."""

from __future__ import annotations

from dataclasses import replace

from dcsync.core.lifecycle import JobState
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest, TokenSource
from tests.fakes import NOON, REQUEST_ID, FakeTokens, make_job, make_request


async def test_a_rejected_token_is_not_given_again() -> None:
    tokens: TokenSource = FakeTokens()
    first = await tokens.access_token()

    second = await tokens.access_token(rejected=first)

    assert (first, second) == ("token-1", "token-2")
    assert await tokens.access_token() == second


def test_a_new_job_has_no_attempts_and_a_new_account_no_facts() -> None:
    described = KnownRequest(id=REQUEST_ID, description="Nightly", slug="nightly", is_delta=False)
    assert described.is_described
    assert (described.first_seen_at, described.document) == (None, None)
    known = KnownJob(job=make_job(), state=JobState.SEEN)

    assert (known.attempts, known.next_try_at, known.folder) == (0, None, None)
    assert AccountFacts() == AccountFacts(conditional_works=None, etag_is_md5=None, bytes_per_second=None)


def test_a_data_request_is_the_same_however_much_is_known_of_its_history() -> None:
    known = KnownRequest(id=REQUEST_ID, description="Nightly", slug="nightly", is_delta=False)

    assert known == replace(known, first_seen_at=NOON)
    assert known == replace(known, document=make_request())
    assert known != replace(known, is_described=False)
