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
    return ast.unparse(node) == "asyncio.TaskGroup"


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
