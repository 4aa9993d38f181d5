"""What the file systems of a mirror cannot do, as alerts. dcsync works around each of them."""

from __future__ import annotations

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.errors import PlaceUnusable
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror.limits import Limit, LimitKind, find_limits
from dcsync.ops.context import MirrorContext, MirrorSettings

log = structlog.get_logger(__name__)

LIMIT_CODES = {
    LimitKind.APART: AlertCode.F_APART,
    LimitKind.MODES: AlertCode.F_MODE,
    LimitKind.LAYER: AlertCode.F_LAYER,
    LimitKind.NESTED: AlertCode.M_NESTED,
}


def search_depth(settings: MirrorSettings) -> int:
    """Return how deep to look for subvolumes: down to the years of a data request."""
    return len(settings.layout.request_segments) + 1


def message_of(limit: Limit) -> str:
    """Return what is limited, with the path and the consequence."""
    kind = "" if limit.file_system is None else f" ({limit.file_system})"
    match limit.kind:
        case LimitKind.APART:
            return (
                f"{limit.path} is on another file system{kind} than mirror.root. Snapshots are copied across, which "
                "takes more time and space, and nothing can be pruned across"
            )
        case LimitKind.MODES:
            return (
                f"the file system of {limit.path}{kind} refuses chmod. Published files have the modes that it gives "
                "them, so they may not be read-only"
            )
        case LimitKind.LAYER:
            return (
                f"{limit.path} has files in the lower layer of an overlay{kind}. The next snapshots read and "
                "copy unchanged files instead of only linking them"
            )
        case LimitKind.NESTED:
            return (
                f"mirror.root is inside the mirror {limit.path}{kind}. dcsync 0.2 and older, if it still runs there, "
                "can take this mirror's snapshots for its own and prune them"
            )


async def refuse_unmounted(context: MirrorContext, folder: str) -> None:
    """Raise `PlaceUnusable` if a mount above a snapshot's folder has gone since the start.

    The snapshot would be written to the disk below, and disappear when the mount is back.
    """
    place = f"{context.root.path}/{folder}/"
    parts = await BrokenParts(context.manifest, None).load()
    above = [part.subject for part in parts if part.code is AlertCode.F_APART and place.startswith(f"{part.subject}/")]
    if not above:
        return
    found = await context.disk.run(find_limits, context.root, depth=search_depth(context.settings))
    apart = {limit.path for limit in found if limit.kind is LimitKind.APART}
    gone = [path for path in above if path not in apart]
    if gone:
        message = f"{gone[0]} was on another file system when dcsync started, and is not mounted now"
        raise PlaceUnusable(
            message,
            hint=f"mount {gone[0]}. If you moved its content to the file system of mirror.root, restart dcsync",
        )


async def report_limits(context: MirrorContext) -> None:
    """Record the limits of the mirror's file systems as alerts. Those that no longer exist are resolved."""
    found = await context.disk.run(find_limits, context.root, depth=search_depth(context.settings))
    parts = [BrokenPart(code=LIMIT_CODES[one.kind], subject=one.path, message=message_of(one)) for one in found]
    known = await BrokenParts(context.manifest, None).replace(LIMIT_CODES.values(), parts)
    for part in parts:
        if part not in known:
            log.warning("the place of the mirror limits it", code=part.code.value, limit=part.message)
