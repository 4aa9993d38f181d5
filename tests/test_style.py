"""Rules of the code that neither ruff nor mypy can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parent.parent / "dcsync"


def unowned_tasks(source: str) -> list[int]:
    """Return the lines that name `create_task` or `ensure_future` of anything but a TaskGroup.

    A TaskGroup is a name that `async with asyncio.TaskGroup() as name` binds, or a parameter with that annotation.
    """
    tree = ast.parse(source)
    return sorted(_unowned(tree, frozenset()))


def _unowned(node: ast.AST, groups: frozenset[str]) -> Iterator[int]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = {each.arg: each.annotation for each in arguments}
            groups = groups - parameters.keys() | {
                name for name, kind in parameters.items() if kind is not None and _is_task_group(kind)
            }
        case ast.AsyncWith(items=items):
            groups |= {
                item.optional_vars.id
                for item in items
                if isinstance(item.optional_vars, ast.Name)
                and isinstance(item.context_expr, ast.Call)
                and _is_task_group(item.context_expr.func)
            }
        case ast.Attribute(attr="create_task" | "ensure_future") if not (
            node.attr == "create_task" and isinstance(node.value, ast.Name) and node.value.id in groups
        ):
            yield node.lineno
        case ast.ImportFrom(names=names):
            yield from (node.lineno for each in names if each.name in {"create_task", "ensure_future"})
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from _unowned(child, groups)


def _is_task_group(node: ast.expr) -> bool:
    return ast.unparse(node) in {"asyncio.TaskGroup", "task_group"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_task_is_owned_by_a_task_group(path: Path) -> None:
    assert unowned_tasks(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("async with asyncio.TaskGroup() as group:\n  group.create_task(work())", []),
        ("async with opened(), asyncio.TaskGroup() as group:\n  tasks = [group.create_task(one()) for one in all]", []),
        ("def start(group: asyncio.TaskGroup):\n  group.create_task(work())", []),
        ("asyncio.get_running_loop().create_task(work())", [1]),
        ("loop = asyncio.get_running_loop()\nloop.create_task(work())", [2]),
        ("group = Group()\ngroup.create_task(work())", [2]),
        ("async with asyncio.TaskGroup() as group:\n  def start(group):\n    group.create_task(work())", [3]),
        ("spawn = loop.create_task", [1]),
        ("asyncio.ensure_future(work())", [1]),
        ("from asyncio import create_task as spawn", [1]),
    ],
)
def test_a_task_without_an_owner_is_found(body: str, lines: list[int]) -> None:
    assert unowned_tasks(body) == lines


#: The functions that open a file themselves, and why no other program can hold them up.
OPENERS: Final = {
    ("opening.py", "open_regular"): "the one place for all files of the mirror and of the state folder",
    ("opening.py", "_open_leased"): "a part of it",
    ("mirror/disk.py", "open_folder"): "O_DIRECTORY: a folder, or an error",
    ("mirror/disk.py", "remove_tree"): "O_DIRECTORY",
    ("mirror/root.py", "open_root"): "O_DIRECTORY",
    ("mirror/limits.py", "_mounts_below"): "below /proc",
    ("mirror/probe.py", "file_system"): "below /proc",
    ("ops/doctor/machine.py", "_facts_of"): "O_DIRECTORY",
    ("app/state_dir.py", "_sync_folder"): "O_DIRECTORY",
    ("app/state_dir.py", "open_folder"): "O_DIRECTORY",
    ("auth/token_store.py", "_sync_folder"): "O_DIRECTORY",
    ("manifest/sqlite.py", "_make_private"): "O_EXCL: a new file, or an error",
    ("manifest/sqlite.py", "set_aside"): "O_DIRECTORY",
    ("ops/alerts/orphans.py", "children"): "/proc",
    ("tasks.py", "work"): "with the opener that it is given",
}
#: The packages that open files of the mirror or of the state folder.
_WITH_FILES: Final = ("opening.py", "tasks.py", "api", "app", "auth", "daemon", "manifest", "mirror", "ops")


def openers(source: str) -> set[str]:
    """Return the functions that open, read or write a file without `dcsync.opening`."""
    found: set[str] = set()
    _find_openers(ast.parse(source), "", found)
    return found


def _find_openers(node: ast.AST, function: str, found: set[str]) -> None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            function = node.name
        case ast.Call(func=ast.Name(id="open")):
            found.add(function)
        case ast.Attribute(value=ast.Name(id="os" | "io"), attr="open" | "open_code"):
            found.add(function)
        case ast.Call(func=ast.Attribute(attr="read_text" | "read_bytes" | "write_text" | "write_bytes" | "touch")):
            found.add(function)
        case ast.Call(func=ast.Attribute(attr="open", value=value)) if not ast.unparse(value).endswith(("disk", "os")):
            found.add(function)
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        _find_openers(child, function, found)


def test_every_file_is_opened_in_one_place() -> None:
    """A FIFO that another program puts in the place of a file would otherwise hang dcsync for good."""
    paths = [
        path
        for top in _WITH_FILES
        for path in ([PACKAGE / top] if top.endswith(".py") else (PACKAGE / top).rglob("*.py"))
    ]
    found = {
        (str(path.relative_to(PACKAGE)), function)
        for path in paths
        for function in openers(path.read_text(encoding="utf-8"))
    }

    assert found == OPENERS.keys()


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("os.open(name, os.O_RDONLY)", True),
        ("open(name)", True),
        ("path.open()", True),
        ("path.read_text()", True),
        ("path.write_bytes(body)", True),
        ("opener = os.open", True),
        ("aiofiles.open(path)", True),
        ("open_regular(name)", False),
        ("self.context.disk.open(path, 'rb')", False),
        ("os.opendir(name)", False),
    ],
)
def test_an_open_outside_of_that_place_is_found(call: str, is_found: bool) -> None:
    assert openers(f"def work():\n  {call}") == ({"work"} if is_found else set())


def test_no_module_is_longer_than_a_reader_can_follow() -> None:
    """CONTRIBUTING.md. The errors are one table."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}

    assert {path.name: count for path, count in lines.items() if count > 450 and path.name != "errors.py"} == {}
