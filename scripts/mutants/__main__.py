"""Make small wrong changes to one module, one at a time, and check whether its own tests detect them.

    make mutants MODULE=dcsync/core/quota.py [TESTS="tests/core/test_quota.py"]

Each change is made in a copy of the repository, never in place. The output lists surviving changes by line. A change
that leaves the program unchanged cannot be detected. Add it to `tests/equivalent_mutants.txt` with the reason.

mutmut and cosmic-ray remove no statements and no elements, and start a process for each change. Here each test run is a
fork of a process that has already imported the libraries, and runs only the tests that reach the change.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.mutants.changes import Mutant, mutants
from scripts.mutants.runs import REPOSITORY, Runner, serve

EQUIVALENT: Final = "tests/equivalent_mutants.txt"


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
        reach = runner.reach(source)
        while waiting:
            mutant = waiting.popleft()
            if not runner.detects(mutant.source, reach.tests_of(mutant.statement)):
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
