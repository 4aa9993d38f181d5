"""Empty the trash of a mirror without letting a file that cannot be removed stop anything else."""

from __future__ import annotations

import structlog

from dcsync.errors import DiskDenied
from dcsync.mirror import trash
from dcsync.mirror.root import OWN_FOLDER
from dcsync.ops.context import MirrorContext

log = structlog.get_logger(__name__)


async def empty_trash(context: MirrorContext, leaf: str) -> int:
    """Remove a snapshot from the trash and return the number of bytes that this freed.

    A NAS may have put files of another user into it (`@eaDir`). They stay, everything else is removed, and nothing else
    has to wait for them.
    """
    try:
        return await context.disk.run(trash.empty, context.root, leaf)
    except DiskDenied as error:
        hint = f"remove {OWN_FOLDER}/{trash.TRASH}/{leaf} by hand. dcsync needs nothing in it"
        log.warning("some files in the trash cannot be removed", error=error.message, hint=hint)
        return 0
