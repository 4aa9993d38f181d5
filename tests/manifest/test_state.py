"""Values that the manifest remembers under a key."""

from __future__ import annotations

from pathlib import Path

from dcsync.manifest import StoredValues, open_manifest


async def test_a_value_is_replaced_and_other_keys_are_left_alone(tmp_path: Path) -> None:
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        values = StoredValues(manifest)
        assert await values.load("k") is None
        await values.save("k", "1")
        await values.save("k", "2")
        await values.save("other", "")

        assert await values.load("k") == "2"
        assert await values.load("other") == ""


async def test_none_deletes_a_value(tmp_path: Path) -> None:
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        values = StoredValues(manifest)
        await values.save("k", "1")
        await values.save("other", "2")

        await values.save("k", None)

        assert await values.load("k") is None
        assert await values.load("other") == "2"
