"""dcsync keeps a complete, verified, dated copy of every Autodesk Data Connector extract on a disk you own.

`dcsync.read(root)` reads a mirror from Python (docs/guides/read-the-data.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from datetime import tzinfo

    from duckdb import DuckDBPyConnection

    from dcsync.reading import Mirror

__version__ = "0.2.0"

#: The name of the wheel and of the packages. On the Python Package Index, `dcsync` is a program of another author.
DISTRIBUTION = "data-connector-mirror"


def read(
    root: str | os.PathLike[str], *, zone: tzinfo | None = None, connection: DuckDBPyConnection | None = None
) -> Mirror:
    """Read the mirror in the folder `root`: its data requests, snapshots, files and rows.

    It needs only the folders, not the network, the configuration, the manifest or a lock. Days are in `zone`, by
    default UTC. Rows come through DuckDB, which the extra `history` installs, by `connection` if given.
    Raises `dcsync.errors.MirrorMissing` if the folder does not exist.
    """
    from datetime import UTC

    from dcsync import reading

    return reading.read(root, zone=zone or UTC, connection=connection)
