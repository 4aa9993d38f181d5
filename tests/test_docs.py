"""docs/project/faults.md maps each fault to the tests that prove its handling."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from dcsync.core.alerts import AlertCode

REPOSITORY: Final = Path(__file__).parent.parent
#: Every fault there is, by letter.
FAULTS: Final = {"D": 20, "F": 25, "M": 13, "T": 15, "A": 40, "L": 10, "C": 6, "S": 15}
_ROW: Final = re.compile(r"^\| ([A-Z]\d+) \| (.+) \| (.*) \|$", re.MULTILINE)
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def rows() -> dict[str, str]:
    """Return what each fault's row says it is proved by."""
    text = (REPOSITORY / "docs/project/faults.md").read_text(encoding="utf-8")
    found = [(row[1], row[3]) for row in _ROW.finditer(text)]
    assert len(found) == len(dict(found))
    return dict(found)


def names_in(path: Path) -> set[str]:
    """Return the tests of a module as pytest names them, without their parameters."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}::{each.name}" for each in inner}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def test_every_fault_has_a_row() -> None:
    assert list(rows()) == [f"{letter}{number}" for letter, last in FAULTS.items() for number in range(1, last + 1)]


def test_every_test_that_is_named_exists() -> None:
    named = {(fault, *found) for fault, text in rows().items() for found in _TEST.findall(text)}
    known = {
        path: names_in(REPOSITORY / path) for path in {path for _, path, _ in named} if (REPOSITORY / path).is_file()
    }

    assert len(named) > 200
    assert [each for each in sorted(named) if each[2] not in known.get(each[1], set())] == []


def test_every_row_is_proved_or_says_why_not() -> None:
    proved = {fault for fault, text in rows().items() if _TEST.search(text) or "not tested: " in text}
    silent = [fault for fault in rows() if fault not in proved]

    assert silent == []


def test_no_code_span_with_a_test_s_name_is_passed_over() -> None:
    """A test that the pattern does not know would never be looked for."""
    text = (REPOSITORY / "docs/project/faults.md").read_text(encoding="utf-8")
    assert text.count("::test_") == len(_TEST.findall(text))


def test_no_page_lists_a_code_that_explain_does_not_know() -> None:
    """The pages mention codes in prose. A renamed code would stay in them."""
    known = {code.value for code in AlertCode}
    pages = [*(REPOSITORY / "docs").glob("**/*.md"), REPOSITORY / "README.md"]
    named = {code for page in pages for code in re.findall(r"`([A-Z]-[A-Z]{4,})`", page.read_text(encoding="utf-8"))}

    assert len(named) > 20
    assert named - known == set()
