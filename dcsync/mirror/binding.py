"""Whether a root and a state folder belong together: the same instance ID, and no other mirror around them."""

from __future__ import annotations

import uuid

from dcsync.errors import MirrorForeign, MirrorNotMounted
from dcsync.mirror.nesting import holds_snapshots, refuse_inner, refuse_outer
from dcsync.mirror.root import INSTANCE, OWN_FOLDER, MirrorRoot

_COPY_HINT = (
    f"if it is this mirror, copy {OWN_FOLDER} from the original, at least {OWN_FOLDER}/{INSTANCE}. Or run dcsync "
    "rebuild. Otherwise mount the mirror's disk, or correct mirror.root"
)


def claim(root: MirrorRoot, *, state_id: str | None, knows_snapshots: bool) -> tuple[str, bool]:
    """Check that root and state folder belong together. Return the instance ID, and whether the mirror is new.

    A new mirror had neither an ID nor snapshots.

    Raises the errors of `bound_to`, and `MirrorForeign` for a new mirror that has another mirror inside.
    """
    found = bound_to(root, state_id=state_id, knows_snapshots=knows_snapshots)
    if found is not None:
        return found, False
    refuse_inner(root)
    identifier = state_id or str(uuid.uuid4())
    has_snapshots = holds_snapshots(root)
    root.write_marker(identifier)
    return identifier, not has_snapshots


def bound_to(root: MirrorRoot, *, state_id: str | None, knows_snapshots: bool) -> str | None:
    """Return the instance ID that root and state folder share. None when the root has no ID yet. Writes nothing.

    Raises `MirrorNotMounted` when the manifest has snapshots and the root has no ID. Raises `MirrorForeign` when the
    root has a different ID (docs/project/faults.md F13, F14, M9).
    """
    if is_new(root, knows_snapshots=knows_snapshots):
        return None
    found = root.marker()
    if found is None or found != state_id:
        message = f"{root.path} belongs to the instance {found}, this state folder to {state_id or 'none yet'}"
        raise MirrorForeign(
            message,
            hint="one mirror has one manifest: use the state folder of this mirror, or the database of the "
            f"other hosts (state.manifest). If it is lost for good, write the ID {found} into the file "
            "`instance` of the new state folder; dcsync then adopts the published snapshots",
        )
    return found


def is_new(root: MirrorRoot, *, knows_snapshots: bool) -> bool:
    """Return whether the root has no instance ID yet. `MirrorNotMounted` when it should have one. Writes nothing.

    Raises `MirrorForeign` for a new root inside another mirror. An older dcsync may have made such a mirror. It stays
    usable, and `find_limits` reports it. Callers ask this before they take the lock, because the
    lock file must not appear on a bare mount point.
    """
    if root.marker() is not None:
        return False
    if knows_snapshots:
        message = f"the manifest has snapshots, but {root.path} has no {OWN_FOLDER}/{INSTANCE}"
        if holds_snapshots(root):
            message += ", although it has snapshots: it may be a copy without hidden files"
            raise MirrorNotMounted(message, hint=_COPY_HINT)
        raise MirrorNotMounted(message)
    refuse_outer(root)
    return True
