"""Two snapshots of a data request, and its `latest`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dcsync.mirror.latest import LatestKind, point_latest
from dcsync.mirror.root import MirrorRoot

REQUEST = "acme/request"
OLD = f"{REQUEST}/2026/11/21/120000Z-0a000000"
NEW = f"{REQUEST}/2026/11/22/120000Z-9bd7c8a0"
SHOWING = [LatestKind.SYMLINK, LatestKind.HARDLINKS]


def point(root: MirrorRoot, snapshot: str, kind: LatestKind) -> Path:
    point_latest(root, request_folder=REQUEST, name="latest", snapshot=snapshot, kind=kind)
    return root.path / REQUEST / "latest"


def aside(root: MirrorRoot) -> list[Path]:
    return list(root.path.glob(".dcsync/staging/*"))


def write_sidecars(root: MirrorRoot) -> None:
    """Give both snapshots a usable sidecar."""
    for number, folder in enumerate((OLD, NEW)):
        bodies = {name: (root.path / folder / name).read_bytes() for name in ("a.csv", "schemas/b.csv")}
        document = {
            "format": 1,
            "account": {"name": "acme"},
            "request": {"id": "r"},
            "job": {"id": f"j{number}"},
            "files": [
                {
                    "name": name,
                    "original": name,
                    "size": len(body),
                    "sha256": hashlib.sha256(body).hexdigest(),
                    "crc32": "00000000",
                    "how": "fetched",
                }
                for name, body in bodies.items()
            ],
        }
        (root.path / folder / "_dcsync.json").write_text(json.dumps(document))
