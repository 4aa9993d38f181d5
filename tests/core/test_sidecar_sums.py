"""`SHA256SUMS`, which sha256sum reads too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dcsync.core import names, sidecar
from tests.fakes import make_stored


def test_sums_are_read_back() -> None:
    sums = {"b é.csv": "2" * 64, "a  b.csv": "a" * 64}

    assert sidecar.parse_sums(sidecar.render_sums(sums.items())) == sums


@pytest.mark.parametrize("line", [b"", b"x" * 64 + b"  a.csv", b"1" * 64 + b" a.csv", b"1" * 64 + b"  ", b"\xff\xfe"])
def test_lines_that_are_no_sums_are_left_out(line: bytes) -> None:
    assert sidecar.parse_sums(line + b"\n" + b"2" * 64 + b"  b.csv\n") == {"b.csv": "2" * 64}


def test_sums_are_sorted_by_name() -> None:
    assert sidecar.render_sums([("b é.csv", "2" * 64), ("a.csv", "1" * 64)]) == (
        b"1" * 64 + b"  a.csv\n" + b"2" * 64 + "  b é.csv\n".encode()
    )


@pytest.mark.needs_tool("sha256sum")
def test_sha256sum_agrees(tmp_path: Path) -> None:
    originals = ["a.csv", "b é.csv", "c\nd", "e\\f", " g", "-h", "*i"]
    stored = {name: make_stored(name, original.encode()) for original, name in names.assign(originals).items()}
    for original, name in names.assign(originals).items():
        (tmp_path / name).write_bytes(original.encode())

    sums = sidecar.render_sums((name, file.sha256) for name, file in stored.items())

    check = subprocess.run(["sha256sum", "--check", "--strict", "--quiet"], cwd=tmp_path, input=sums, check=False)
    assert check.returncode == 0
