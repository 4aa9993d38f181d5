"""The kinds of parts that break: each is broken for one data request, account or folder, and mended again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from dcsync.daemon.chores import Chores
from dcsync.sandbox import Fault
from dcsync.sandbox.world import JobEntry
from tests.rigs.broken import PROJECTS, Bench, Target
from tests.rigs.mirror import add_extract, tables

Break: TypeAlias = Callable[[Bench, Target], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of part."""

    name: str
    #: Breaks the part within the block. Yields the text by which an alert must name it.
    broken: Break
    #: The codes that the alert may have.
    codes: frozenset[str]
    #: Whether the newest extract of the target may be missing while the part is broken.
    holds: bool
    #: The same for all data requests of the target's account.
    holds_account: bool = False
    #: Whether `status --check` stays 0, because no data is missing or in danger.
    stays_green: bool = False
    #: Whether dcsync looks for it once a day, or notices it only after the next extract.
    is_slow: bool = False
    #: Whether hooks hear of it. The failure of a hook is told by notifications alone.
    tells_hooks: bool = True
    #: The codes of parts that nothing finds while this one is broken.
    hides: frozenset[str] = frozenset()
    #: The account that it needs, if not any.
    account: str | None = None


KINDS: list[Kind] = []


def kind(
    *codes: str, holds: bool = True, **more: Any
) -> Callable[[Callable[[Bench, Target], Iterator[str]]], Callable[[Bench, Target], AbstractContextManager[str]]]:
    """Add a kind to the list."""

    def add(function: Callable[[Bench, Target], Iterator[str]]) -> Break:
        broken = contextmanager(function)
        KINDS.append(Kind(name=function.__name__, broken=broken, codes=frozenset(codes), holds=holds, **more))
        return broken

    return add


# --- jobs -------------------------------------------------------------------------------------------------------------


def _add_calls(name: str, code: str, fault: Fault, *, where: str) -> None:
    @contextmanager
    def broken(bench: Bench, target: Target) -> Iterator[str]:
        def of_job(job: str) -> Fault:
            return replace(fault, match=f"{job}{where}")

        with bench.next_job(target, of_job):
            yield "job "

    KINDS.append(Kind(name=name, broken=broken, codes=frozenset({code}), holds=True))


for _status in (500, 503, 504):
    _add_calls(
        f"listing_{_status}",
        "A-SERVER",
        Fault(server="api", kind="status", status=_status, times=None),
        where="/data-listing",
    )
_add_calls("listing_reset", "A-NETWORK", Fault(server="api", kind="reset", times=None), where="/data-listing")
_add_calls(
    "listing_html",
    "A-ANSWER",
    Fault(server="api", kind="json", body=b"<html>Sign in</html>", times=None),
    where="/data-listing",
)
_add_calls(
    "listing_404", "L-MISSING", Fault(server="api", kind="status", status=404, times=None), where="/data-listing"
)
_add_calls("listing_empty", "L-EMPTY", Fault(server="api", kind="json", body=b"[]", times=None), where="/data-listing")
_add_calls("listing_403", "A-DENIED", Fault(server="api", kind="status", status=403, times=None), where="/data-listing")
_add_calls("signing_500", "A-SERVER", Fault(server="api", kind="status", status=500, times=None), where="/data/")
_add_calls("signing_reset", "A-NETWORK", Fault(server="api", kind="reset", times=None), where="/data/")
_add_calls("signing_404", "A-MISSING", Fault(server="api", kind="status", status=404, times=None), where="/data/")
_add_calls("storage_500", "S-SERVER", Fault(server="storage", kind="status", status=500, times=None), where="")
_add_calls("storage_403", "S-REFUSED", Fault(server="storage", kind="status", status=403, times=None), where="")
_add_calls("storage_reset", "S-NETWORK", Fault(server="storage", kind="reset", times=None), where="")


_add_calls("storage_short", "F-SIZE", Fault(server="storage", kind="short", amount=5, times=None), where="")
_add_calls(
    "listing_wrong", "L-LISTING", Fault(server="api", kind="json", body=b'{"a": 1}', times=None), where="/data-listing"
)


@kind("L-STATUS")
def status_unknown(bench: Bench, target: Target) -> Iterator[str]:
    """Autodesk reports a job as archived."""
    changed: list[JobEntry] = []

    def arrived(job: str) -> None:
        entry = bench.mirror.world.jobs[job]
        entry.status, entry.completion = "archived", None
        changed.append(entry)

    bench.arrivals.append((target, arrived))
    yield "archived"
    bench.arrivals.remove((target, arrived))
    for entry in changed:
        entry.status, entry.completion = "complete", "success"


@kind("L-ENTRY", holds=False)
def id_unusable(bench: Bench, target: Target) -> Iterator[str]:
    """An entry of the job list has an ID that cannot be used."""
    job = add_extract(bench.mirror, tables(1), request=bench.requests[target], job_id="../../etc/passwd")
    yield "etc/passwd"
    del bench.mirror.world.jobs[job]


# --- projects, data requests, accounts --------------------------------------------------------------------------------


def _add_project(status: int) -> None:
    @contextmanager
    def broken(bench: Bench, target: Target) -> Iterator[str]:
        project = PROJECTS[target.request]
        with bench.fault(
            Fault(server="api", kind="status", status=status, match=f"projectId(%5D)?={project}", times=None)
        ):
            yield project

    name, codes = f"project_{status}", frozenset({"L-PROJECT"})
    KINDS.append(Kind(name=name, broken=broken, codes=codes, holds=True, account="third"))


for _status in (400, 403, 404, 500):
    _add_project(_status)


@kind("L-REQUEST", holds=False)
def request_unreadable(bench: Bench, target: Target) -> Iterator[str]:
    """A new data request cannot be described."""
    world, hub = bench.mirror.world, bench.hubs[target.account]
    project = PROJECTS[target.request] if target.account == "third" else None
    request = world.add_request(f"New at {target}", schedule="ONE_TIME", hub_id=hub, project_id=project)
    job = add_extract(bench.mirror, tables(1, seed=77), request=request)
    with bench.fault(
        Fault(server="api", kind="status", match=f"accounts/{bench.account_of(target)}/requests", times=None)
    ):
        yield request
    bench.late.append(job)


@kind("L-INACTIVE", is_slow=True)
def request_inactive(bench: Bench, target: Target) -> Iterator[str]:
    """Somebody set a data request inactive."""
    entry = bench.mirror.world.requests[bench.requests[target]]
    entry.is_active = False
    yield target.request
    entry.is_active = True


@kind("L-ENDED", is_slow=True)
def request_ended(bench: Bench, target: Target) -> Iterator[str]:
    """The schedule of a data request ended."""
    entry = bench.mirror.world.requests[bench.requests[target]]
    entry.ends_at = bench.rig.clock.now() - timedelta(minutes=1)
    yield target.request
    entry.ends_at = None


@kind("L-GONE", is_slow=True)
def request_gone(bench: Bench, target: Target) -> Iterator[str]:
    """The user no longer sees a data request."""
    entry = bench.mirror.world.requests[bench.requests[target]]
    account, entry.account_id = entry.account_id, "another"
    yield target.request
    entry.account_id = account


@kind("A-DENIED", holds_account=True)
def account_403(bench: Bench, target: Target) -> Iterator[str]:
    """The user lost the account."""
    account = bench.account_of(target)
    with bench.fault(Fault(server="api", kind="status", status=403, match=f"accounts/{account}/", times=None)):
        yield account


@kind("A-SERVER", holds_account=True)
def account_list_500(bench: Bench, target: Target) -> Iterator[str]:
    """The job list of an account fails."""
    account = bench.account_of(target)
    with bench.fault(Fault(server="api", kind="status", match=rf"accounts/{account}/jobs\?", times=None)):
        yield account


@kind("A-NETWORK", holds_account=True)
def account_list_reset(bench: Bench, target: Target) -> Iterator[str]:
    """The job list of an account is never answered."""
    account = bench.account_of(target)
    with bench.fault(Fault(server="api", kind="reset", match=rf"accounts/{account}/jobs\?", times=None)):
        yield account


# --- the tree ---------------------------------------------------------------------------------------------------------


def _add_odd(name: str, plant: Callable[[Path], object]) -> None:
    @contextmanager
    def broken(bench: Bench, target: Target) -> Iterator[str]:
        # One that no day changes: it would be linked.
        path = bench.newest(target) / "admin_table_000.csv"
        kept = bench.folder / f"kept-{target.account}-{target.request}"
        path.rename(kept)
        plant(path)
        yield str(path.relative_to(bench.mirror.root))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)

    codes = frozenset({"V-DAMAGED"})
    KINDS.append(Kind(name=name, broken=broken, codes=codes, holds=False))


def _plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # A path of a socket has at most 107 bytes.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


_add_odd("yesterday_fifo", os.mkfifo)
_add_odd("yesterday_socket", _plant_socket)
_add_odd("yesterday_symlink", lambda path: path.symlink_to("/etc/passwd"))
_add_odd("yesterday_folder", Path.mkdir)
_add_odd("yesterday_missing", Path.touch)


@kind("V-DAMAGED", holds=False)
def yesterday_sidecar(bench: Bench, target: Target) -> Iterator[str]:
    """Half of a `_dcsync.json` is lost."""
    path = bench.newest(target) / "_dcsync.json"
    body = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(body[: len(body) // 2])
    yield str(path.relative_to(bench.mirror.root))
    path.write_bytes(body)
    path.chmod(0o444)


def _add_day_folder(name: str, plant: Callable[[Path], object]) -> None:
    @contextmanager
    def broken(bench: Bench, target: Target) -> Iterator[str]:
        path = bench.tomorrow(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        plant(path)
        yield str(path.relative_to(bench.mirror.root))
        path.unlink()

    KINDS.append(Kind(name=name, broken=broken, codes=frozenset({"M-TAMPERED"}), holds=True))


_add_day_folder("day_symlink", lambda path: path.symlink_to("/tmp"))  # noqa: S108 - nothing is written there
_add_day_folder("day_file", Path.touch)
_add_day_folder("day_fifo", os.mkfifo)


@contextmanager
def mounted(path: Path) -> Iterator[None]:
    """Mount an empty file system within the block."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@kind("M-LATEST", holds=False, stays_green=True)
def latest_foreign(bench: Bench, target: Target) -> Iterator[str]:
    """Somebody put files into a real folder `latest`."""
    path = bench.folder_of(target) / "latest"
    path.unlink()
    path.mkdir()
    (path / "mine.xlsx").write_text("mine")
    yield str(path.relative_to(bench.mirror.root))
    assert (path / "mine.xlsx").read_text() == "mine"
    shutil.rmtree(path)


@kind("M-PRUNE", holds=False, stays_green=True, is_slow=True)
def prune_candidate(bench: Bench, target: Target) -> Iterator[str]:
    """The snapshot that is to be pruned is a mount point, which nothing can rename."""
    path = bench.oldest(target)
    subprocess.run(["mount", "--bind", path, path], check=True)
    yield str(path.relative_to(bench.mirror.root))
    subprocess.run(["umount", path], check=True)


@kind("M-TRASH", holds=False, stays_green=True)
def trash_stuck(bench: Bench, target: Target) -> Iterator[str]:
    """A folder in the trash cannot be removed."""
    path = bench.mirror.root / ".dcsync/trash" / f"stuck-{target.account}-{target.request}" / "@eaDir"
    path.mkdir(parents=True)
    with mounted(path):
        yield ".dcsync/trash"


# --- the daemon -------------------------------------------------------------------------------------------------------


@kind("H-FAILED", holds=False, is_slow=True, tells_hooks=False)
def hook(bench: Bench, _: Target) -> Iterator[str]:
    """A hook fails."""
    path = bench.folder / "hook"
    path.write_text("#!/bin/sh\nexit 3\n")
    yield str(path)
    path.write_text("#!/bin/sh\nexit 0\n")


@kind("H-FAILED", holds=False, is_slow=True, tells_hooks=False)
def hook_missing(bench: Bench, _: Target) -> Iterator[str]:
    """The program of a hook is gone."""
    path = bench.folder / "hook"
    path.rename(bench.folder / "hook-elsewhere")
    yield str(path)
    (bench.folder / "hook-elsewhere").rename(path)


@kind("P-REPORT", holds=False)
def report(bench: Bench, _: Target) -> Iterator[str]:
    """A folder is in the place of the report."""
    path = bench.mirror.root / "index.html"
    path.unlink()
    (path / "mine").mkdir(parents=True)
    yield "index.html"
    shutil.rmtree(path)


@kind("P-METRICS", holds=False)
def metrics_file(bench: Bench, _: Target) -> Iterator[str]:
    """The folder of the metrics file is gone."""
    path = bench.folder / "metrics"
    shutil.rmtree(path)
    yield str(path)
    path.mkdir()


@kind("D-CHORE", holds=False, hides=frozenset({"V-DAMAGED"}))
def chore(_: Bench, __: Target) -> Iterator[str]:
    """The nightly verify has a bug."""
    verify = Chores._verify

    async def fail(_: Chores) -> None:
        message = "unexpected"
        raise RuntimeError(message)

    Chores._verify = fail  # type: ignore[method-assign, assignment]
    yield "verify"
    Chores._verify = verify  # type: ignore[method-assign]
