"""The wrong changes that `make mutants` tries, and what it says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from scripts.mutants.__main__ import equivalent, own_tests
from scripts.mutants.changes import mutants

REPOSITORY: Final = Path(__file__).parent.parent

LIMIT: Final = """
def is_small(size, limit=10):
    return size < limit
"""

TESTS: Final = """
from dcsync.core.limit import is_small

def test_small():
    assert is_small(9)

def test_large():
    assert not is_small(11)
"""


def changes(source: str) -> set[str]:
    return {mutant.key.removeprefix("m.py ") for mutant in mutants("m.py", source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x < y", {"x < y -> x <= y", "x < y -> x > y", "x < y -> pass"}),
        ("x in y == z", {"x in y == z -> x not in y == z", "x in y == z -> x in y != z", "x in y == z -> pass"}),
        ("f(3)", {"f(3) -> pass", "3 -> 4", "3 -> 2"}),
        ("f(True)", {"f(True) -> pass", "True -> False"}),
        (
            "f(a and b)",
            {"f(a and b) -> pass", "a and b -> a or b", "a and b -> a", "a and b -> b"},
        ),
        ("f(not a)", {"f(not a) -> pass", "not a -> a"}),
        ("f(-a)", {"f(-a) -> pass", "-a -> a"}),
        ("f(a + b)", {"f(a + b) -> pass", "a + b -> a - b"}),
        ("f({a, b})", {"f({a, b}) -> pass", "{a, b} -> {a}", "{a, b} -> {b}"}),
        ("f({a})", {"f({a}) -> pass", "{a} -> set()"}),
        ("f((a, b))", {"f((a, b)) -> pass", "(a, b) -> (a,)", "(a, b) -> (b,)"}),
        ("f({a: b})", {"f({a: b}) -> pass", "{a: b} -> {}"}),
        (
            "f([a for a in b if c])",
            {
                "f([a for a in b if c]) -> pass",
                "for a in b if c -> for a in b if not c",
                "for a in b if c -> for a in b",
            },
        ),
        ("if a:\n  raise b", {"if a: -> if not a:", "raise b -> pass"}),
        ("while a:\n  break", {"while a: -> while not a:", "break -> pass"}),
        ("f(a if b else c)", {"f(a if b else c) -> pass", "a if b else c -> a if not b else c"}),
    ],
)
def test_each_kind_of_change(source: str, expected: set[str]) -> None:
    assert changes(source) == {f"module: {change}" for change in expected}


def test_a_change_names_its_line_and_its_function() -> None:
    source = "class A:\n    def b(self):\n        self.c = d\n        return self.c"

    assert [(mutant.line, mutant.key) for mutant in mutants("m.py", source)] == [
        (3, "m.py A.b: self.c = d -> pass"),
        (4, "m.py A.b: return self.c -> return None"),
    ]


def test_the_same_change_at_two_places_has_two_names() -> None:
    found = mutants("m.py", "f(not a)\nf(not a)")

    keys = [mutant.key for mutant in found if "not" in mutant.key and "pass" not in mutant.key]
    assert keys == ["m.py module: not a -> a", "m.py module: not a -> a #2"]
    assert found[1].source == "f(a)\nf(not a)"


@pytest.mark.parametrize(
    "source",
    [
        '"""What it is."""',
        "import os",
        "x: Literal[1] = y",
        "def f(x: tuple[int, int]) -> Literal[1]: ...",
        "Pairs = dict[str, int]",
        "if TYPE_CHECKING:\n  f(1)",
        "@dataclass(frozen=True)\nclass A: ...",
        "a = b",  # nothing that uses `a` would run
        "__all__ = ['a', 'b']",
        "return None",
    ],
)
def test_what_decides_nothing_is_left_alone(source: str) -> None:
    assert mutants("m.py", source) == []


def test_an_assignment_that_changes_a_value_can_be_left_out() -> None:
    assert "module: a = c -> pass" in changes("a = b\na = c")


def test_the_tests_of_a_module_mirror_it(tmp_path: Path) -> None:
    (tmp_path / "tests/core").mkdir(parents=True)
    for name in ("test_plan.py", "test_plan_links.py", "test_planet.py", "test_quota.py"):
        (tmp_path / "tests/core" / name).touch()

    assert own_tests("dcsync/core/plan.py", tmp_path) == ["tests/core/test_plan.py", "tests/core/test_plan_links.py"]
    assert own_tests("dcsync/core/cost.py", tmp_path) == []


def test_the_list_of_equivalent_changes_leaves_reasons_out() -> None:
    assert equivalent("# why\nm.py f: 1 -> 2\n\nm.py f: 1 -> 0\n") == {"m.py f: 1 -> 2", "m.py f: 1 -> 0"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one module, its tests, and the program."""
    files = {
        "dcsync/__init__.py": "",
        "dcsync/core/__init__.py": "",
        "dcsync/core/limit.py": LIMIT,
        "tests/__init__.py": "",
        "tests/conftest.py": "import hypothesis\nhypothesis.settings.register_profile('ci')\n",
        "tests/core/test_limit.py": TESTS,
        "tests/equivalent_mutants.txt": "# why\ndcsync/core/limit.py module: 10 -> 9\n",
        **{str(file.relative_to(REPOSITORY)): file.read_text() for file in REPOSITORY.glob("scripts/mutants/*.py")},
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def run(repository: Path) -> tuple[int, list[str], str]:
    process = subprocess.run(
        [sys.executable, "-m", "scripts.mutants", "dcsync/core/limit.py"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout.splitlines(), process.stderr


def test_survivors_are_printed_with_line_and_change(repository: Path) -> None:
    before = (repository / "dcsync/core/limit.py").read_text()

    status, lines, _ = run(repository)

    assert status == 0
    assert lines == [
        "2: dcsync/core/limit.py is_small: 10 -> 11",
        "3: dcsync/core/limit.py is_small: size < limit -> size <= limit",
        "tests/equivalent_mutants.txt names a change that is no longer one: dcsync/core/limit.py module: 10 -> 9",
        "dcsync/core/limit.py: 3 of 5 changes noticed, 60.0 % (0 equivalent)",
    ]
    assert (repository / "dcsync/core/limit.py").read_text() == before


def test_an_equivalent_change_is_not_tried(repository: Path) -> None:
    (repository / "tests/equivalent_mutants.txt").write_text("dcsync/core/limit.py is_small: 10 -> 11\n")

    _, lines, _ = run(repository)

    assert lines[-1] == "dcsync/core/limit.py: 3 of 4 changes noticed, 75.0 % (1 equivalent)"


def test_tests_that_fail_without_a_change_are_told(repository: Path) -> None:
    (repository / "tests/core/test_limit.py").write_text("def test_it():\n    assert 'this' == 'that'\n")

    status, _, error = run(repository)

    assert status == 1
    assert "the tests fail without a change" in error
    assert "'that'" in error
