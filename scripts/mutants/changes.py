"""The small wrong changes to a module: negated conditions, limits moved by one, removed statements and elements."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One wrong change. `key` names it independently of its line."""

    key: str
    line: int
    source: str
    #: The lines of the changed statement, or None if it is outside functions and runs at the import.
    statement: range | None


def mutants(module: str, source: str) -> list[Mutant]:
    """Return every small wrong change to this source. No two changes result in the same program."""
    tree = ast.parse(source)
    seen, repeats, found = {ast.unparse(tree)}, Counter[str](), list[Mutant]()
    for place in _places(tree):
        old = place.node
        for new in _replacements(old, is_bound_once=place.is_bound_once):
            place.put(new)
            changed = ast.unparse(tree)
            place.put(old)
            if changed in seen:
                continue
            seen.add(changed)
            name = f"{module} {place.scope}: {_head(old)} -> {_head(new)}"
            repeats[name] += 1
            key = name if repeats[name] == 1 else f"{name} #{repeats[name]}"
            found.append(Mutant(key=key, line=place.line, source=changed, statement=place.statement))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A node and its position in its parent."""

    parent: ast.AST
    field: str
    index: int | None
    line: int
    scope: str
    statement: range | None
    is_bound_once: bool

    @property
    def node(self) -> ast.AST:
        held = getattr(self.parent, self.field)
        node: ast.AST = held if self.index is None else held[self.index]
        return node

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


#: Fields with types or assignment targets. They decide nothing.
_NO_CODE: Final = {"annotation", "returns", "decorator_list", "bases", "targets", "target"}


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Walk over the executed code, without types, docstrings and imports."""

    def walk(node: ast.AST, line: int, scope: str, statement: range | None, bound: Counter[str]) -> Iterator[_Place]:
        for field, value in ast.iter_fields(node):
            if field in _NO_CODE:
                continue
            children = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, child in children:
                if not isinstance(child, ast.AST) or _is_left_alone(child):
                    continue
                at = getattr(child, "lineno", line)
                within = _lines(child) if isinstance(child, ast.stmt) and statement else statement
                if not (field == "slice" and isinstance(child, ast.Tuple)):  # the parameters of a type
                    once = isinstance(child, ast.Assign) and _binds_once(child, bound)
                    yield _Place(
                        parent=node,
                        field=field,
                        index=index,
                        line=at,
                        scope=scope,
                        statement=within,
                        is_bound_once=once,
                    )
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inner = child.name if scope == "module" else f"{scope}.{child.name}"
                    if not isinstance(child, ast.ClassDef):
                        within = _lines(child)
                    yield from walk(child, at, inner, within, _bound(child))
                else:
                    yield from walk(child, at, scope, within, bound)

    yield from walk(tree, 1, "module", None, _bound(tree))


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _bound(scope: ast.AST) -> Counter[str]:
    names = (node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return Counter(names)


def _binds_once(node: ast.Assign, bound: Counter[str]) -> bool:
    """Return whether each use of what is assigned fails without the assignment: no change to try."""
    stored = [name for target in node.targets for name in ast.walk(target) if hasattr(name, "ctx")]
    names = [name for name in stored if isinstance(name.ctx, ast.Store) and not isinstance(name, ast.Tuple)]
    return all(isinstance(name, ast.Name) and bound[name.id] == 1 for name in names)


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Pass() | ast.Global() | ast.Nonlocal():
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring, or the `...` of a protocol
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Call(func=ast.Name(id="cast" | "TypeVar" | "NewType" | "assert_never")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="assert_never"))):
            return True
        case _:
            return False


def _replacements(node: ast.AST, *, is_bound_once: bool) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _instead_of_statement(node, is_bound_once=is_bound_once)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _like(node, test=_negated(node.test))
    if isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            yield _like(node, ifs=_with(node.ifs, index, _negated(test)))
            yield _like(node, ifs=_without(node.ifs, index))
    if isinstance(node, ast.expr):
        yield from _instead_of_expression(node)


def _instead_of_statement(node: ast.stmt, *, is_bound_once: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Raise() | ast.AugAssign() | ast.Delete() | ast.Break() | ast.Continue() | ast.Return(value=None):
            yield ast.Pass()
        case ast.Expr() if not isinstance(node.value, ast.Constant):
            yield ast.Pass()
        case ast.Assign() if not is_bound_once:
            yield ast.Pass()
        case ast.Return() if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield ast.Return(value=ast.Constant(value=None))


def _instead_of_expression(node: ast.expr) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - one case a kind
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in _COMPARISONS[type(operator)]:
                    yield _like(node, ops=_with(node.ops, index, other()))
        case ast.BoolOp():
            yield _like(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for index in range(len(node.values)):
                rest = _without(node.values, index)
                yield rest[0] if len(rest) == 1 else _like(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(left=ast.Constant(value=str()) | ast.JoinedStr()):
            pass  # text
        case ast.BinOp() if type(node.op) in _OPERATORS:
            yield _like(node, op=_OPERATORS[type(node.op)]())
        case ast.Constant(value=bool() as truth):
            yield ast.Constant(value=not truth)
        case ast.Constant(value=int() | float() as number):
            yield from (ast.Constant(value=number + step) for step in (1, -1))
        case ast.List(ctx=ast.Load()) | ast.Tuple(ctx=ast.Load()) | ast.Set():
            for index in range(len(node.elts)):
                rest = _without(node.elts, index)
                is_empty_set = isinstance(node, ast.Set) and not rest
                yield ast.parse("set()", mode="eval").body if is_empty_set else _like(node, elts=rest)
        case ast.Dict():
            for index in range(len(node.values)):
                yield _like(node, keys=_without(node.keys, index), values=_without(node.values, index))
        case _:
            pass


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=test)


def _like(node: ast.AST, **fields: object) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def _with(items: Sequence[T], index: int, item: T) -> list[T]:
    return [*items[:index], item, *items[index + 1 :]]


def _without(items: Sequence[T], index: int) -> list[T]:
    return [*items[:index], *items[index + 1 :]]


def _head(node: ast.AST) -> str:
    """Return a node's source, or its first line if it is a block or longer than one line."""
    return ast.unparse(node).strip().split("\n", 1)[0]
