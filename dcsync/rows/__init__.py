"""The rows of tables, through DuckDB, which the extra `history` installs.

Everything that reads rows opens an `Engine`. The files are opened here and not by DuckDB, so that it meets neither a
symlink nor a pattern in a path.
"""

from dcsync.rows.compare import RowChange, RowFate, TableChanges, compared
from dcsync.rows.engine import Engine, check_installed, opened
from dcsync.rows.table import CsvTable, open_table
from dcsync.rows.work import in_thread

__all__ = [
    "CsvTable",
    "Engine",
    "RowChange",
    "RowFate",
    "TableChanges",
    "check_installed",
    "compared",
    "in_thread",
    "open_table",
    "opened",
]
