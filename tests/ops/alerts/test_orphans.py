"""The processes that hooks leave behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcsync.ops.alerts.orphans import children
from tests.rigs.ended import ending


def test_a_process_that_ends_while_they_are_looked_for_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with ending(subprocess.Popen(["sleep", "600"])) as gone, ending(subprocess.Popen(["sleep", "600"])) as child:

        def without_it(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Path, *arguments: Any, **options: Any) -> Any:
                if str(path) == f"/proc/{gone.pid}/stat":
                    raise ProcessLookupError
                return real(path, *arguments, **options)

            return call

        for name in ("stat", "read_text"):
            monkeypatch.setattr(Path, name, without_it(getattr(Path, name)))

        found = {each.pid for each in children()}

    assert child.pid in found
    assert gone.pid not in found
