"""What a run waits for, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import ceil


class WaitReason(StrEnum):
    """Why a run waits."""

    #: The rate limit of the API, or a pause that the API asked for.
    RATE_LIMIT = "rate limit"
    #: The next attempt of an API call that failed.
    API = "api"
    #: The next attempt of a download that failed.
    STORAGE = "storage"


_WORDS = {
    WaitReason.RATE_LIMIT: "for the rate limit",
    WaitReason.API: "to call the API again",
    WaitReason.STORAGE: "to download again",
}


def waits_text(waits: Mapping[WaitReason, float]) -> str:
    """Return what is waited for, with the seconds that are left of each wait. Empty without a wait."""
    parts = [f"{ceil(waits[reason])} s {words}" for reason, words in _WORDS.items() if reason in waits]
    return f"waiting {', '.join(parts)}" if parts else ""
