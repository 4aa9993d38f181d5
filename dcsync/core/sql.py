"""Names and strings in SQL statements for DuckDB. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.csv_defects import LONGEST_LINE

#: Autodesk writes RFC 4180. With these options DuckDB guesses nothing, and takes fields as they are.
_CSV_FORM = "auto_detect = false, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
# DuckDB would take the names of folders in the layout "hive" for columns.
_CSV_FORM += "hive_partitioning = false, "
_CSV_FORM += f"allow_quoted_nulls = false, strict_mode = true, max_line_size = {LONGEST_LINE}, "
_CSV_FORM += f"buffer_size = {LONGEST_LINE}"


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def csv_form(header: Sequence[str]) -> str:
    """Return the options that read a CSV file with this header exactly. See `has_line_break` for the header itself."""
    # DuckDB takes a carriage return in the name of a column for the line break of the file.
    new_line = ", new_line = '\\n'" if any("\r" in name for name in header) else ""
    return f"{_CSV_FORM}, header = {'false' if has_line_break(header) else 'true'}{new_line}"


def has_line_break(header: Sequence[str]) -> bool:
    """Say whether the name of a column has a line break. The header is then read as the first row.

    DuckDB ignores an error in a header, and finds no rows after it.
    """
    return any("\r" in name or "\n" in name for name in header)


def csv_text(path: str, columns: Sequence[str]) -> str:
    """Return the expression that reads a CSV file with these distinct columns as text, exactly as it is.

    An empty field is NULL, and the field `""` is the empty string. DuckDB does not read the file until its rows are
    needed, and refuses it if a record has too few or too many fields.
    """
    declared = ", ".join(f"{text(name)}: 'VARCHAR'" for name in columns)
    source = f"read_csv({text(path)}, {csv_form(columns)}, columns = {{{declared}}})"
    return f"(SELECT * FROM {source} QUALIFY row_number() OVER () > 1)" if has_line_break(columns) else source
