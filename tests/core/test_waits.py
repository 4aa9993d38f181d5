"""What is waited for, in words."""

from __future__ import annotations

import pytest

from dcsync.core.waits import WaitReason, waits_text


@pytest.mark.parametrize(
    ("waits", "text"),
    [
        ({}, ""),
        ({WaitReason.RATE_LIMIT: 41.2}, "waiting 42 s for the rate limit"),
        ({WaitReason.API: 8.0}, "waiting 8 s to call the API again"),
        (
            {WaitReason.STORAGE: 0.4, WaitReason.RATE_LIMIT: 60},
            "waiting 60 s for the rate limit, 1 s to download again",
        ),
    ],
)
def test_each_wait_is_told_with_the_seconds_that_are_left(waits: dict[WaitReason, float], text: str) -> None:
    assert waits_text(waits) == text


def test_every_reason_has_words() -> None:
    assert all(waits_text({reason: 1}) for reason in WaitReason)
