"""Which line a key stands in: what tomllib does not tell."""

from __future__ import annotations

import tomllib
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.config.lines import KeyPath, key_lines, line_of


def lines_of(text: str) -> dict[KeyPath, int]:
    text = dedent(text).lstrip("\n")
    tomllib.loads(text)  # what is not TOML proves nothing
    return key_lines(text)


def test_tables_and_their_keys_have_their_lines() -> None:
    lines = lines_of("""
        top = 1
        # a comment
        [mirror] # one more

        root = "/x"
        [ state ]
          dir = '/y'
    """)

    assert lines == {
        ("top",): 1,
        ("mirror",): 3,
        ("mirror", "root"): 5,
        ("state",): 6,
        ("state", "dir"): 7,
    }


def test_arrays_of_tables_are_counted_from_zero() -> None:
    lines = lines_of("""
        [[account]]
        name = "a"
        [log]
        [[account]]
        name = "b"
        [account.extra]
        key = 1
    """)

    assert lines[("account",)] == 1
    assert lines[("account", 0, "name")] == 2
    assert lines[("account", 1)] == 4
    assert lines[("account", 1, "name")] == 5
    assert lines[("account", 1, "extra", "key")] == 7


def test_dotted_and_quoted_keys_are_paths() -> None:
    lines = lines_of("""
        mirror.root = "/x"
        mirror . layout = "dated"
        "mirror".'latest' = "none"
        [api."headers"]
        "X.Region" = "EMEA"
    """)

    assert lines[("mirror",)] == lines[("mirror", "root")] == 1
    assert lines[("mirror", "layout")] == 2
    assert lines[("mirror", "latest")] == 3
    assert lines[("api", "headers")] == 4
    assert lines[("api", "headers", "X.Region")] == 5


def test_keys_of_an_inline_table_have_the_line_of_the_table() -> None:
    lines = lines_of("""
        [api]
        headers = { Region = "EMEA", "X-Other" = "a=b" }
        after = 1
    """)

    assert lines[("api", "headers", "Region")] == 2
    assert lines[("api", "headers", "X-Other")] == 2
    assert lines[("api", "after")] == 3


@pytest.mark.parametrize("quote", ['"""', "'''"])
def test_what_looks_like_a_key_in_a_string_of_several_lines_is_none(quote: str) -> None:
    lines = lines_of(f"""
        first = {quote}
        [log]
        level = "info"
        {quote}
        second = {quote}in one line{quote}
        third = 3
    """)

    assert lines == {("first",): 1, ("second",): 5, ("third",): 6}


def test_arrays_over_several_lines_are_stepped_over() -> None:
    lines = lines_of("""
        include = [
          "a = ]",  # level = ]
          '[x',
          [ "nested", "\\"]" ],
          { name = "b" },
          ["last"]
        ]
        exclude = ["]"]
        after = 1
    """)

    assert lines == {("include",): 1, ("exclude",): 8, ("after",): 9}


def test_a_path_without_a_line_gets_that_of_what_holds_it() -> None:
    lines: dict[KeyPath, int] = {("mirror",): 3, ("mirror", "root"): 4}

    assert line_of(("mirror", "root"), lines) == 4
    assert line_of(("mirror", "absent", 0), lines) == 3
    assert line_of(("absent",), lines) is None
    assert line_of((), lines) is None


KEYS = st.text(alphabet="abcXYZ0189_-", min_size=1, max_size=8)
#: A value as TOML text, and how many lines it takes.
VALUES = st.sampled_from(
    [
        ("1", 1),
        ('"a # b = [c]"', 1),
        ("[1, 2] # ]", 1),
        ('"""x"""', 1),
        ("[\n  'x = 1',\n]", 3),
        ('"""\nkey = 1\n"""', 3),
        ("'''\n[t]\n'''", 3),
        ("\t{ a = 1 }", 1),
    ]
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4), st.integers(0, 2))
def test_every_key_of_a_document_has_the_line_it_was_written_to(
    tables: dict[str, dict[str, tuple[str, int]]], blank: int
) -> None:
    written: list[str] = []
    expected: dict[KeyPath, int] = {}
    for table, keys in tables.items():
        written += [""] * blank + ["# key = [ in a comment"]
        expected[(table,)] = len(written) + 1
        written.append(f"[{table}]")
        for key, (value, _) in keys.items():
            expected[(table, key)] = len(written) + 1
            written += f"{key} = {value}".split("\n")
    text = "\n".join(written)
    document: dict[str, Any] = tomllib.loads(text)

    lines = key_lines(text)

    assert document.keys() == tables.keys()
    assert {path: line for path, line in lines.items() if path[-1] != "a" or path in expected} == expected


def test_only_line_feeds_end_a_line() -> None:
    assert key_lines("# a\u2028b\x85c\n[mirror]\nroot = 1\n")["mirror", "root"] == 3


def test_quotes_in_a_comment_open_no_string() -> None:
    assert key_lines('name = "acme"  # """\nid = "1"\n')["id",] == 2
