"""Names and strings in SQL statements for DuckDB. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.csv_defects import LONGEST_LINE

#: Autodesk writes RFC 4180. With these options DuckDB guesses nothing, and takes fields as they are.
_CSV_FORM = "auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
_CSV_FORM += f"allow_quoted_nulls = false, strict_mode = true, max_line_size = {LONGEST_LINE}, "
_CSV_FORM += f"buffer_size = {LONGEST_LINE}"


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def csv_form(header: Sequence[str]) -> str:
    """Return the options that read a CSV file with this header exactly."""
    # DuckDB takes a carriage return in the name of a column for the line break of the file, and would find no rows.
    return f"{_CSV_FORM}, new_line = '\\n'" if any("\r" in name for name in header) else _CSV_FORM


def csv_text(path: str, columns: Sequence[str]) -> str:
    """Return the expression that reads a CSV file with these distinct columns as text, exactly as it is.

    An empty field is NULL, and the field `""` is the empty string. DuckDB does not read the file until its rows are
    needed, and refuses it if a record has too few or too many fields.
    """
    declared = ", ".join(f"{text(name)}: 'VARCHAR'" for name in columns)
    return f"read_csv({text(path)}, {csv_form(columns)}, columns = {{{declared}}})"
