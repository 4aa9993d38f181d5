"""Builders of what a plan is made from: the directory of a ZIP, and the facts that a listing is compared with."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dcsync.core.plan import Keep, Known, Plan
from dcsync.core.ziplayout import Directory, Member, Refused
from tests.fakes import make_snapshot, make_stored

BODY = b"12345678"


def make_directory(bodies: Mapping[str, bytes], *, refused: tuple[Refused, ...] = (), spacing: int = 100) -> Directory:
    """Return the directory of an archive in which each member is 8 bytes long at most and takes up `spacing`."""
    members = tuple(
        Member(
            name=name,
            raw_name=name.encode(),
            method=8,
            crc32=zlib.crc32(body),
            packed=len(body) + 2,
            size=len(body),
            offset=index * spacing,
            stop=(index + 1) * spacing,
        )
        for index, (name, body) in enumerate(bodies.items())
    )
    return Directory(members=members, refused=refused, size=len(members) * spacing + 500)


def kept(made: Plan) -> tuple[Keep, ...]:
    return tuple(action for action in made.actions if isinstance(action, Keep))


def make_known(
    previous: bytes | None = BODY,
    archive: bytes | None = BODY,
    *,
    stored: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Known:
    """Return what is known of the one file `a.csv`: its content before, and in the archive."""
    before = (
        None if previous is None else replace(make_snapshot(), files=(make_stored("a.csv", previous, **stored or {}),))
    )
    return Known(previous=before, directory=None if archive is None else make_directory({"a.csv": archive}), **changes)
