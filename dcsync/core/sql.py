"""Names and strings in SQL statements for DuckDB. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.csv_defects import LONGEST_LINE

#: Autodesk writes RFC 4180. With these options DuckDB guesses nothing, and takes fields as they are.
CSV_FORM = "auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
CSV_FORM += f"allow_quoted_nulls = false, strict_mode = true, max_line_size = {LONGEST_LINE}, "
CSV_FORM += f"buffer_size = {LONGEST_LINE}"


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def csv_text(path: str, columns: Sequence[str]) -> str:
    """Return the expression that reads a CSV file with these distinct columns as text, exactly as it is.

    An empty field is NULL, and the field `""` is the empty string. DuckDB does not read the file until its rows are
    needed, and refuses it if a record has too few or too many fields.
    """
    declared = ", ".join(f"{text(name)}: 'VARCHAR'" for name in columns)
    return f"read_csv({text(path)}, {CSV_FORM}, columns = {{{declared}}})"
