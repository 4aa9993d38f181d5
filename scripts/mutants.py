"""Make small wrong changes to one module, one at a time, and check whether its own tests detect them.

    make mutants MODULE=dcsync/core/quota.py [TESTS="tests/core/test_quota.py"]

Each change is made in a copy of the repository, never in place. The output lists surviving changes by line. A change
that leaves the program unchanged cannot be detected. Add it to `tests/equivalent_mutants.txt` with the reason.

mutmut and cosmic-ray remove no statements and no elements, and start a process for each change. Here each test run is a
fork of a process that has already imported the libraries.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn, TypeVar

import hypothesis
import pytest

REPOSITORY: Final = Path(__file__).parent.parent
EQUIVALENT: Final = "tests/equivalent_mutants.txt"
#: A changed loop may run forever or fill the memory.
_PATIENCE: Final = 5
_PATIENCE_S: Final = 10.0
_MEMORY: Final = 4 << 30
_PROFILE: Final = "mutants"

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


# --- the changes ------------------------------------------------------------------------------------------------------


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
            found.append(Mutant(key=key, line=place.line, source=changed))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A node and its position in its parent."""

    parent: ast.AST
    field: str
    index: int | None
    line: int
    scope: str
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

    def walk(node: ast.AST, line: int, scope: str, bound: Counter[str]) -> Iterator[_Place]:
        for field, value in ast.iter_fields(node):
            if field in _NO_CODE:
                continue
            children = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, child in children:
                if not isinstance(child, ast.AST) or _is_left_alone(child):
                    continue
                at = getattr(child, "lineno", line)
                if not (field == "slice" and isinstance(child, ast.Tuple)):  # the parameters of a type
                    once = isinstance(child, ast.Assign) and _binds_once(child, bound)
                    yield _Place(parent=node, field=field, index=index, line=at, scope=scope, is_bound_once=once)
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inner = child.name if scope == "module" else f"{scope}.{child.name}"
                    yield from walk(child, at, inner, _bound(child))
                else:
                    yield from walk(child, at, scope, bound)

    yield from walk(tree, 1, "module", _bound(tree))


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


# --- running the tests ------------------------------------------------------------------------------------------------


class Runner:
    """A process in a copy of the repository that has imported the libraries. Each test run is a fork of it."""

    def __init__(self, folder: Path, module: str, tests: Sequence[str]) -> None:
        self._copy = folder / "tree"
        _copy_tree(self._copy)
        self._module = self._copy / module
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.mutants", "--serve", *tests],
            cwd=self._copy,
            # The path comes before the editable install, also for the processes that the tests start. Bytecode is
            # matched by second and size, so a change could run with the bytecode of the previous change.
            env={**os.environ, "PYTHONPATH": str(self._copy), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.output = folder / "output"

    def run(self, source: str, *, patience_s: float, keeps_bytecode: bool = False) -> int | None:
        """Return pytest's exit status for a module with this source, or None after a time-out."""
        self._module.write_text(source)
        request = {"patience_s": patience_s, "output": str(self.output), "keeps_bytecode": keeps_bytecode}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status: int | None = json.loads(self._process.stdout.readline())
        for stale in self._module.parent.glob(f"__pycache__/{self._module.stem}.*"):
            stale.unlink()
        return status

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _copy_tree(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():  # a file that was deleted and not yet committed is not
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def serve(tests: Sequence[str]) -> None:
    """Answer each request on stdin with the exit status of a run of the tests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_libraries(tests)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.dont_write_bytecode = not request["keeps_bytecode"]
            _run_tests(tests, request["output"])
        status = _wait(child, request["patience_s"])
        with suppress(ProcessLookupError):  # what the tests started, and left
            os.killpg(child, signal.SIGKILL)
        print(json.dumps(status), file=answers, flush=True)


def _import_libraries(tests: Sequence[str]) -> None:
    """Import everything that the tests import, then unload dcsync's own modules."""
    for name in ["tests.conftest", *(test.removesuffix(".py").replace("/", ".") for test in tests)]:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in {"dcsync", "tests"}]:
        del sys.modules[name]


def _run_tests(tests: Sequence[str], output: str) -> NoReturn:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (1, 2):
        os.dup2(sink, descriptor)
    status = 1
    try:
        # Deterministic, so that the result for a change is always the same. One failure is enough, in any form.
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(_PROFILE, deadline=None, derandomize=True, phases=phases)
        settings = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--hypothesis-profile={_PROFILE}")
        ignored = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
        status = int(pytest.main([*settings, *ignored, *tests], plugins=[_QuickTestsFirst()]))
    finally:
        sys.stdout.flush()
        os._exit(status)


class _QuickTestsFirst:
    """Let the properties of hypothesis wait for the examples, which detect most changes and take a fraction as long."""

    @staticmethod
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.get_closest_marker("hypothesis") is not None)


def _wait(child: int, patience_s: float) -> int | None:
    descriptor = os.pidfd_open(child)
    try:
        is_over, _, _ = select.select([descriptor], [], [], patience_s)
    finally:
        os.close(descriptor)
    if not is_over:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if is_over else None


# --- the command ------------------------------------------------------------------------------------------------------


def own_tests(module: str, repository: Path) -> list[str]:
    """Return the test files that mirror a module: `tests/core/test_quota.py`, `tests/core/test_quota_*.py`."""
    path = Path(module).relative_to("dcsync")
    folder = repository / "tests" / path.parent
    found = [folder / f"test_{path.stem}.py", *sorted(folder.glob(f"test_{path.stem}_*.py"))]
    return [str(file.relative_to(repository)) for file in found if file.exists()]


def equivalent(text: str) -> set[str]:
    """Return the keys of equivalent changes from a list. Lines that begin with `#` are reasons."""
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def judge(module: str, tests: Sequence[str], found: Sequence[Mutant], *, workers: int) -> list[Mutant]:
    """Return the changes that the tests did not detect."""
    survivors: list[Mutant] = []
    waiting = deque(found)
    source = (REPOSITORY / module).read_text()

    def work(runner: Runner) -> None:
        began = time.monotonic()
        if runner.run(source, patience_s=600, keeps_bytecode=True) != 0:
            message = f"the tests fail without a change:\n{runner.output.read_text()}"
            raise SystemExit(message)
        patience_s = _PATIENCE * (time.monotonic() - began) + _PATIENCE_S
        while waiting:
            mutant = waiting.popleft()
            if runner.run(mutant.source, patience_s=patience_s) == 0:
                survivors.append(mutant)

    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        folders = [Path(stack.enter_context(TemporaryDirectory(prefix="dcsync-mutants-"))) for _ in range(workers)]
        runners = [Runner(folder, module, tests) for folder in folders]
        for runner in runners:
            stack.callback(runner.close)
        for done in [pool.submit(work, runner) for runner in runners]:
            done.result()
    return sorted(survivors, key=lambda mutant: mutant.line)


def main() -> int:
    """Print the survivors and the share of detected changes."""
    parser = argparse.ArgumentParser(description="Change a module in small ways and see whether its tests notice.")
    parser.add_argument("module", help="such as dcsync/core/quota.py")
    parser.add_argument("tests", nargs="*", help="test files; without any, those that mirror the module")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tests = options.tests or own_tests(options.module, REPOSITORY)
    if not tests:
        parser.error(f"no test file mirrors {options.module}: name some (TESTS=…)")
    known = equivalent((REPOSITORY / EQUIVALENT).read_text())
    every = mutants(options.module, (REPOSITORY / options.module).read_text())
    found = [mutant for mutant in every if mutant.key not in known]
    survivors = judge(options.module, tests, found, workers=options.workers)
    for mutant in survivors:
        print(f"{mutant.line}: {mutant.key}")
    for key in sorted(
        key for key in known if key.split(" ")[0] == options.module and key not in {m.key for m in every}
    ):
        print(f"{EQUIVALENT} names a change that is no longer one: {key}")
    noticed = len(found) - len(survivors)
    share = 100 * noticed / len(found) if found else 100.0
    same = len(every) - len(found)
    print(f"{options.module}: {noticed} of {len(found)} changes noticed, {share:.1f} % ({same} equivalent)")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
    else:
        sys.exit(main())
