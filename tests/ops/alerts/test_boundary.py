"""The boundary of a part: an error stays inside, and the alert lasts until the part works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.errors import DiskFull, ManifestError
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain

PART = Part(code=AlertCode.D_CHORE, subject="tidy", name="the tidy", next_try="the next night tries again")


@pytest.fixture
async def manifest(tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(tmp_path / "manifest.db") as opened:
        yield opened


def failing(error: Exception) -> object:
    async def work() -> None:
        raise error

    return work


async def works() -> None:
    """Do nothing."""


async def test_an_error_is_recorded_with_its_hint_and_the_next_try(manifest: SqlManifest) -> None:
    parts = BrokenParts(manifest, None)

    assert not await contain(parts, PART, failing(DiskFull("no space", hint="free some")))  # type: ignore[arg-type]

    (broken,) = await parts.load()
    assert (broken.code, broken.subject, broken.message) == ("D-CHORE", "tidy", "the tidy failed: no space")
    assert broken.hint == "free some. The next night tries again"
    assert await contain(parts, PART, works)
    assert await parts.load() == ()


async def test_the_text_of_a_bug_is_not_shown(manifest: SqlManifest) -> None:
    parts = BrokenParts(manifest, AccountName("acme"))

    assert not await contain(parts, PART, failing(KeyError("s3cret")))  # type: ignore[arg-type]

    (broken,) = await parts.load()
    assert broken.message == "the tidy failed because of a bug in dcsync (KeyError)"


async def test_a_manifest_that_fails_does_not_make_the_boundary_fail(manifest: SqlManifest) -> None:
    class Failing(BrokenParts):
        async def resolve(self, code: AlertCode, subject: str = "") -> None:
            message = f"{code}{subject} not resolved"
            raise ManifestError(message)

    assert await contain(Failing(manifest, None), PART, works)
