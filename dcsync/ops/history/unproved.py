"""The alerts about tables that a verification did not prove. Only a build from the first step resolves them too."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dcsync.core.alerts import AlertCode
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.history.verify import Verified

_PREFIX = "verify:"


def is_of_verification(part: BrokenPart) -> bool:
    """Say whether a verification recorded this part."""
    return part.code is AlertCode.R_HISTORY and part.subject.startswith(_PREFIX)


def subject_of(slug: str, table: str) -> str:
    """Return the subject of a table that does not prove."""
    return f"{_PREFIX}{slug}/{table}"


def unproved_parts(found: Verified) -> list[BrokenPart]:
    """Return a part for each table that does not prove, with the reason of its first step."""
    first = {each.table: each for each in reversed(found.unproved)}
    return [
        BrokenPart(
            code=AlertCode.R_HISTORY,
            subject=subject_of(found.request.slug, name),
            message=f"the row history {found.folder}/{name}.parquet does not prove: {each.path}: {each.reason}",
            hint=_hint(found, name),
        )
        for name, each in first.items()
    ]


def _hint(found: Verified, table: str) -> str:
    chosen = f"--account {found.account} --request {found.request.slug} --table {table}"
    return (
        f"dcsync verify --repair repairs a damaged snapshot. dcsync history --rebuild {chosen} builds the table again. "
        f"If it keeps the table, restore {found.folder}/{table}.parquet from a backup, or add --accept-loss. Then run "
        f"dcsync history --verify {chosen}"
    )


async def record_unproved(broken: BrokenParts, found: Sequence[Verified], *, is_all: bool, only_looks: bool) -> bool:
    """Record the tables of an account that do not prove, and resolve those that do. Returns whether that is a change.

    `is_all` says that every table was looked at. With `only_looks`, nothing is written.
    """
    parts = [part for item in found for part in unproved_parts(item)]
    proved = {subject_of(item.request.slug, name) for item in found for name in item.looked_at}
    unknown = {subject_of(item.request.slug, name) for item in found for name in item.unknown}
    return await _replace(broken, parts, None if is_all else proved, unknown, only_looks=only_looks)


async def _replace(
    broken: BrokenParts,
    parts: Sequence[BrokenPart],
    proved: Collection[str] | None,
    unknown: Collection[str],
    *,
    only_looks: bool,
) -> bool:
    def keeps(part: BrokenPart) -> bool:
        is_proved = (proved is None or part.subject in proved) and part.subject not in unknown
        return not (is_of_verification(part) and is_proved)

    known = [part for part in await broken.load() if not keeps(part)]
    is_changed = set(known) != set(parts)
    if is_changed and not only_looks:
        await broken.replace([AlertCode.R_HISTORY], parts, keeps=keeps)
    return is_changed
