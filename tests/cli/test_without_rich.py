"""rich is imported only to draw on a terminal: structlog would import it at each start."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

from tests.rigs.mirror import tables
from tests.rigs.served import TOKEN, Served

#: Prints whether rich was loaded when the command ended.
_COMMAND = """
import atexit, sys
atexit.register(lambda: print("rich.console" in sys.modules, "structlog" in sys.modules))
from dcsync.cli import main
main()
"""


def run_python(code: str, *arguments: str, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environ
    )
    return done.stdout.splitlines()[-1]


def test_a_run_without_a_terminal_does_not_load_rich(side: Served) -> None:
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)
    environ = {"PATH": "/usr/bin:/bin", TOKEN: side.token}

    assert run_python(_COMMAND, "--config", str(side.config), "sync", environ=environ) == "False True"


def test_rich_is_there_again_before_something_is_drawn() -> None:
    code = (
        "from dcsync.cli.without_rich import keep_rich_out, let_rich_in; keep_rich_out(); import structlog; "
        "let_rich_in(); import rich.console; let_rich_in(); print(rich.console.Console.__name__, structlog.dev.rich)"
    )

    assert run_python(code) == "Console None"


def test_rich_that_is_loaded_already_stays() -> None:
    code = (
        "import rich; from dcsync.cli.without_rich import keep_rich_out; keep_rich_out(); import rich.text; "
        "print(rich.text.Text('drawn'))"
    )

    assert run_python(code) == "drawn"
