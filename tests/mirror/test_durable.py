"""Durable writes of whole files."""

from __future__ import annotations

import stat

from dcsync.mirror.durable import replace_durably
from dcsync.mirror.root import MirrorRoot


def test_a_small_file_is_replaced_by_a_new_one_and_never_written_into(root: MirrorRoot) -> None:
    replace_durably(root.descriptor, "note", b"old", mode=0o644)
    with (root.path / "note").open("rb") as reader:
        replace_durably(root.descriptor, "note", b"newer", mode=0o600)

        assert reader.read() == b"old"

    assert (root.path / "note").read_bytes() == b"newer"
    assert stat.S_IMODE((root.path / "note").stat().st_mode) == 0o600
    assert [path.name for path in root.path.iterdir()] == ["note"]
