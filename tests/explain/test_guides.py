"""Every installation has the guides, and no message sends its reader to a page that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.core.alerts import AlertCode
from dcsync.explain import guide, guide_names

PACKAGE = Path(__file__).parents[2] / "dcsync"
OTHERS = [path for path in PACKAGE.rglob("*") if path.suffix in {".toml", ".j2", ".service", ".timer"}]


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that a user can see: its strings, and the docstrings of commands, which are help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
        and not (isinstance(node, ast.FunctionDef) and node.name.endswith("_command"))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


SEEN = {
    **{path: "\n".join(texts(path)) for path in PACKAGE.rglob("*.py") if path.name != "guides.py"},
    **{path: path.read_text(encoding="utf-8") for path in OTHERS},
}


def test_the_guides_are_those_of_the_documentation() -> None:
    names = {path.stem for path in (PACKAGE.parent / "docs/guides").glob("*.md")}

    assert set(guide_names()) == names
    assert guide("network").startswith("# ")


@pytest.mark.parametrize("path", SEEN, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_message_names_a_page_of_the_repository(path: Path) -> None:
    named = re.findall(r"\bdocs/[\w/-]+\.md|\b(?:README|CONTRIBUTING|CHANGELOG|SECURITY)\.md", SEEN[path])

    # The introduction of the codes is for their authors.
    assert named == (["docs/reference/alerts.md"] if path.name == "codes.toml" else [])


def test_what_a_message_lets_its_reader_explain_can_be_explained() -> None:
    named = {
        name for text in SEEN.values() for name in re.findall(r"\bdcsync explain ([A-Z]+-[A-Z]+|[a-z][a-z-]+)", text)
    }

    assert {"network", "several-hosts"} <= named
    assert named <= {code.value for code in AlertCode} | set(guide_names())
