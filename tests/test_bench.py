"""The benchmark in its small size: calls and bytes are as expected, and all tools do the same work.

No time is looked at: machines are shared.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import peers as other
from bench.line import cases
from bench.origin import SO_MAX_PACING_RATE, listening
from bench.past import add_day, name_of, past, version_of
from bench.stage import ARCHIVE, SMALL, Stage, staged, tables
from bench.table import Row, Table
from tests.rigs.mirror import sidecar
from tests.rigs.served import TOKEN

pytestmark = [
    pytest.mark.needs_tool(tool) for tool in ("aria2c", "curl", "jq", "nginx", "rclone", "sha256sum", "unzip", "wget")
]

FILES = SMALL.files


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as made:
        yield made


def sums(folder: Path) -> dict[str, str]:
    """Return the tables' SHA-256 from SHA256SUMS by name."""
    pairs = (line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text().splitlines())
    return {name.lstrip("*"): digest for digest, name in pairs if name.endswith(".csv")}


def published(stage: Stage, root: Path) -> Path:
    """Return the one snapshot."""
    (folder,) = {path.parent for path in root.glob("acme/*/[0-9]*/**/_dcsync.json")}
    return folder


def test_dcsync_and_each_peer_produce_the_same_files_and_hashes(stage: Stage, tmp_path: Path) -> None:
    job = stage.add(tables(SMALL, 0))
    with stage.mirror() as side:
        stage.run(side, "sync")
        expected = sums(published(stage, side.root))
    assert len(expected) == FILES

    for name, peer in other.many_files(stage.extract(job, at_once=4)).items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        calls, (requests, sent) = stage.api_calls(), stage.origin.sent()
        peer(folder)
        stage.fetched()

        assert sums(folder) == expected, name
        assert {path.name for path in folder.iterdir()} == {*expected, "SHA256SUMS"}, name
        # One call per file and one for the data listing, and every byte of every file once.
        assert stage.api_calls() - calls == FILES + 1, name
        whole = sum(len(body) for body in tables(SMALL, 0).values())
        assert stage.origin.sent() == (requests + FILES, sent + whole), name


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_each_alternative_for_one_file_produces_the_same_hash(scheme: str, tmp_path: Path) -> None:
    body = b"id\n" + b"1\n" * 700_000
    with staged(scheme=scheme) as stage:
        job = stage.add({"large.csv": body}, with_archive=False)
        with stage.mirror() as side:
            stage.run(side, "sync")
            expected = sums(published(stage, side.root))
        assert stage.origin.sent() == (1, len(body))

        for name, peer in other.one_file(f"{stage.origin.at(scheme)}/{job}/large.csv", stage.origin.authority).items():
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            peer(folder)
            assert (folder / "large.csv").read_bytes() == body, name
            if "no hash" not in name:
                assert sums(folder) == expected, name


def test_dcsync_and_each_tool_bring_the_same_extract_over_a_paced_line(tmp_path: Path) -> None:
    with cases(SMALL) as made, staged(pace=50_000_000) as stage:
        for case in made:
            request = stage.side.sandbox.world.add_request(case.name)
            job = stage.add(case.files, request=request, with_archive=False)
            with stage.mirror({'name = "acme"': f'requests = ["{request}"]'}) as side:
                stage.run(side, "sync")
                expected = sums(published(stage, side.root))
            assert len(expected) == len([name for name in case.files if name.endswith(".csv")])

            for name, peer in other.through_many(
                f"{stage.origin.http}/{job}/{case.fetched}", stage.origin.authority
            ).items():
                folder = tmp_path / case.fetched / str(len(expected)) / name.replace(" ", "-")
                folder.mkdir(parents=True)
                peer(folder)
                if "unzip" in name or case.fetched != ARCHIVE:
                    assert sums(folder) == expected, name
                else:
                    assert (folder / ARCHIVE).read_bytes() == case.files[ARCHIVE].path.read_bytes(), name


def test_the_kernel_paces_each_connection_of_the_origin() -> None:
    with listening(12_345_678) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) == 12_345_678


def test_the_mirror_with_a_history_is_whole_and_its_next_day_is_published(tmp_path: Path) -> None:
    sizes = [3000] * FILES
    with past(tmp_path / "past", 7, sizes) as side:

        def run(*arguments: str) -> None:
            command = [sys.executable, "-m", "dcsync", "--config", str(side.config), *arguments]
            subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin", TOKEN: side.token})

        run("verify")
        add_day(side, 7, sizes)
        run("sync")

        folders = sorted(path.parent for path in side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))
        assert len(folders) == 8
        before, newest = (
            {path.name: path.read_bytes() for path in folder.glob("*.csv")} for folder in (folders[-2], folders[-1])
        )
        changed = {name_of(index) for index in range(FILES) if version_of(index, 7) == 7}
        assert len(changed) == 1
        assert {name for name, content in newest.items() if content != before[name]} == changed

    # It is used again.
    with past(tmp_path / "past", 7, sizes) as side:
        assert len(list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))) == 8


def test_a_first_day_takes_four_calls_and_a_later_one_three(stage: Stage) -> None:
    with stage.mirror() as side:
        stage.add(tables(SMALL, 0), days_ago=1)
        stage.run(side, "sync")
        assert stage.api_calls() == 4
        before = stage.fetched()
        changed = sum(tables(SMALL, 1)[name] != body for name, body in tables(SMALL, 0).items())

        job = stage.add(tables(SMALL, 1))
        stage.run(side, "sync")

        assert stage.api_calls() == 7
        # The end of the ZIP, which is the whole of such a small ZIP, and the changed entries.
        archive = stage.side.sandbox.world.extract(job)[ARCHIVE].size
        assert archive < stage.fetched() - before < archive + 2 * changed * archive / FILES
        newest = max(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"), key=lambda path: path.stat().st_mtime)
        how = [file["how"] for file in sidecar(newest.parent)["files"]]
        # All other files are hard-linked, including the schemas, which only the ZIP contains.
        assert len(how) - how.count("linked") == changed == 1


def test_a_backfill_takes_at_most_four_calls_an_extract_and_meets_no_429() -> None:
    with staged(quota=60) as stage, stage.mirror() as side:
        for day in range(SMALL.days):
            stage.add(tables(SMALL, day + 1, changed=1.0), days_ago=SMALL.days - 0.5 - day)
        stage.run(side, "sync")

        assert stage.api_calls() <= 4 * SMALL.days
        assert stage.side.sandbox.count("api", status=429) == 0
        assert len(list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))) == SMALL.days


@pytest.mark.parametrize("known", SMALL.known_jobs)
def test_a_poll_without_new_jobs_takes_one_call_for_any_number_of_known_jobs(stage: Stage, known: int) -> None:
    with stage.mirror() as side:
        for number in range(known):
            stage.add({"admin_users.csv": b"id\n%d\n" % number}, days_ago=28 * (1 - number / known))
        stage.run(side, "sync")
        calls, sent = stage.api_calls(), stage.fetched()

        stage.run(side, "sync")

        assert stage.api_calls() == calls + 1
        assert stage.fetched() == sent


def test_a_daemon_is_timed_from_its_poll_to_latest(stage: Stage) -> None:
    calls = stage.api_calls()

    took = stage.served_by_daemon(tables(SMALL, 0), with_archive=True)

    assert took > 0
    # The first poll, which finds nothing, and the requested poll with the extract.
    assert stage.api_calls() - calls == 1 + 4


@pytest.mark.parametrize(("bars", "status"), [("ok ok", 0), ("ok MISS ok", 1)])
def test_a_missed_target_fails_the_benchmark(bars: str, status: int) -> None:
    program = (
        "import asyncio, sys; from bench import run\n"
        "for bar in sys.argv[1].split(): run.show('what', '1', '0', met=bar == 'ok')\n"
        "run.PARTS = ('nothing',)\n"
        "sys.exit(asyncio.run(run.main(['nothing'])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, bars],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == status, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == bars.split()


def test_table_and_plot_show_each_row_and_the_missed_targets(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.add(Row(work="fast & good", against="curl", dcsync="1 s", other="4 s", ratio=0.25, bar=0.5))
    table.add(Row(work="slow", against="curl", dcsync="9 s", other="3 s", ratio=3.0, bar=1.1))
    table.add(Row(work="for the picture", against="wget", dcsync="1 s", other="1 s", ratio=1.0, bar=None))

    assert [row.met for row in table.rows] == [True, False, True]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ok", "MISS", "ok"]
    lines = table.markdown().splitlines()
    assert lines[2] == "| fast & good | curl | 1 s | 4 s | 0.25 | 0.5 met |"
    assert lines[3].endswith("| 3.00 | 1.1 **missed** |")
    drawing = ET.fromstring(table.plot())  # noqa: S314 - ours
    words = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fast & good / curl", "slow / curl", "0.25", "3.00"} <= set(words)
