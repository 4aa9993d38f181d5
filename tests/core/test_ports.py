"""The fakes meet the ports they stand in for; what has not been learnt yet is nothing."""

from __future__ import annotations

from dcsync.core.lifecycle import JobState
from dcsync.core.ports import AccountFacts, KnownJob, TokenSource
from tests.fakes import FakeTokens, make_job


async def test_a_rejected_token_is_not_given_again() -> None:
    tokens: TokenSource = FakeTokens()
    first = await tokens.access_token()

    second = await tokens.access_token(rejected=first)

    assert (first, second) == ("token-1", "token-2")
    assert await tokens.access_token() == second


def test_a_new_job_has_no_attempts_and_a_new_account_no_facts() -> None:
    known = KnownJob(job=make_job(), state=JobState.SEEN)

    assert (known.attempts, known.next_try_at, known.folder) == (0, None, None)
    assert AccountFacts() == AccountFacts(conditional_works=None, etag_is_md5=None, bytes_per_second=None)
