"""Metrics for Prometheus, from the status alone: the same for a scrape and for a file."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync import __version__
from dcsync.core.freshness import FreshnessState
from dcsync.errors import DiskError
from dcsync.mirror.disk import disk_errors_but_missing
from dcsync.opening import open_regular
from dcsync.ops.status import AccountStatus, Status
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REPLACING = threading.Lock()


def render(status: Status) -> bytes:
    """Return the metrics in the text format of Prometheus."""
    # Imported here because the import takes 40 ms, which no other command should pay for.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class _FromStatus(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from families(status)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromStatus())
    return generate_latest(registry)


async def write_textfile(disk: DiskThreads, path: Path, status: Status) -> None:
    """Write the metrics for node_exporter's textfile collector, in one step. Raises `DiskError`."""
    body = await disk.run(render, status)
    try:
        with disk_errors_but_missing(f"writing {path}"):
            await disk.run(_replace_file, path, body)
    except FileNotFoundError:
        message = f"{path.parent} does not exist"
        raise DiskError(message, hint="create that folder, or correct metrics.textfile") from None


def _replace_file(path: Path, body: bytes) -> None:
    # The polls of several accounts may end at the same time.
    with _REPLACING:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(body)
            temporary.chmod(0o644)  # node_exporter runs as another user
            temporary.replace(path)
        except OSError as error:
            # The temporary name says nothing to anybody. A permission is that of the folder.
            named = (str(path.parent),) if isinstance(error, PermissionError) else ()
            raise OSError(error.errno, error.strerror, *named) from None
        finally:
            with suppress(OSError):
                temporary.unlink()


def families(status: Status) -> Iterator[Metric]:
    """Yield every metric. Those without a value have no samples."""
    from prometheus_client.core import GaugeMetricFamily

    info = GaugeMetricFamily("dcsync_build_info", "Version and host of the running dcsync.", labels=["version", "host"])
    info.add_metric([__version__, socket.gethostname()], 1)
    yield info
    if status.hosts:
        yield from _hosts(status)
    yield from _times(status)
    yield from _states(status)
    yield from _requests(status)
    yield from _totals(status)
    yield GaugeMetricFamily("dcsync_quota_limit", "Allowed API calls per minute.", value=status.quota_limit)
    yield GaugeMetricFamily("dcsync_quota_used", "API calls in the last minute.", value=status.quota_used)
    if status.free_bytes is not None:
        yield GaugeMetricFamily("dcsync_disk_free_bytes", "Free bytes on the mirror's disk.", value=status.free_bytes)
    if status.token_refresh_by is not None:
        yield GaugeMetricFamily(
            "dcsync_token_refresh_by_timestamp_seconds",
            "Time at which the refresh token expires unless it is renewed.",
            value=status.token_refresh_by.timestamp(),
        )


def _hosts(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    labels = ["host", "pid"]
    up = GaugeMetricFamily("dcsync_host_up", "1 if the host was seen in the last 30 seconds, else 0.", labels=labels)
    seen = GaugeMetricFamily(
        "dcsync_host_seen_timestamp_seconds", "Time at which the host was last seen.", labels=labels
    )
    busy = GaugeMetricFamily("dcsync_host_busy", "1 while the host is running a task, else 0.", labels=labels)
    for host in status.hosts:
        names = [host.name, str(host.pid)]
        up.add_metric(names, float(host.is_alive))
        seen.add_metric(names, host.seen_at.timestamp())
        busy.add_metric(names, float(host.is_alive and bool(host.doing)))
    yield from (up, seen, busy)


def _times(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for name, words, value in (
        # No failure advances it. An alert on its age is the most important one.
        ("last_success", "Time of the account's last successful run.", "last_success"),
        ("last_poll", "Time of the account's last poll.", "last_poll"),
        ("newest_snapshot", "Completion time of the latest extract of any data request.", "newest_completed_at"),
    ):
        family = GaugeMetricFamily(f"dcsync_{name}_timestamp_seconds", words, labels=["account"])
        for account in status.accounts:
            moment = getattr(account, value)
            if isinstance(moment, datetime):
                family.add_metric([account.name], moment.timestamp())
        yield family


def _states(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    stale = GaugeMetricFamily(
        "dcsync_stale",
        "1 if the account's last successful run is older than poll.stale_after, else 0.",
        labels=["account"],
    )
    jobs = GaugeMetricFamily("dcsync_jobs", "Known jobs by state.", labels=["account", "state"])
    alerts = GaugeMetricFamily("dcsync_attention", "Standing alerts by code.", labels=["account", "code"])
    for account in status.accounts:
        stale.add_metric([account.name], float(account.is_stale))
        for state, count in account.jobs.items():
            jobs.add_metric([account.name, state], count)
        for code, count in _by_code(account).items():
            alerts.add_metric([account.name, code], count)
    yield from (stale, jobs, alerts)


def _requests(status: Status) -> Iterator[Metric]:
    """Yield the freshness of each data request: the newest snapshot of an account hides one that is late."""
    from prometheus_client.core import GaugeMetricFamily

    labels = ["account", "request"]
    info = GaugeMetricFamily("dcsync_request_info", "The data requests.", labels=[*labels, "description"])
    state = GaugeMetricFamily(
        "dcsync_request_state", "1 for the state of the data request, else 0.", labels=[*labels, "state"]
    )
    missed = GaugeMetricFamily("dcsync_request_slots_missed", "Overdue extracts of the data request.", labels=labels)
    newest = GaugeMetricFamily(
        "dcsync_request_newest_snapshot_timestamp_seconds",
        "Time at which Autodesk completed the latest mirrored extract of the data request.",
        labels=labels,
    )
    expected = GaugeMetricFamily(
        "dcsync_request_next_expected_timestamp_seconds",
        "Time at which the next extract of the data request should be complete.",
        labels=labels,
    )
    ends = GaugeMetricFamily(
        "dcsync_request_ends_timestamp_seconds", "Time at which the schedule of the data request ends.", labels=labels
    )
    for account in status.accounts:
        for request in account.requests:
            names = [account.name, request.request]
            info.add_metric([*names, request.description], 1)
            missed.add_metric(names, request.slots_missed)
            for each in FreshnessState:
                state.add_metric([*names, each.value], float(request.state is each))
            for family, moment in (
                (newest, request.newest_completed_at),
                (expected, request.next_expected_at),
                (ends, request.ends_at),
            ):
                if moment is not None:
                    family.add_metric(names, moment.timestamp())
    yield from (info, state, missed, newest, expected, ends)


def _totals(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    for name, words, value in (
        ("dcsync_snapshots", "Published snapshots.", "snapshots"),
        ("dcsync_fetched_bytes", "Bytes downloaded for published snapshots.", "fetched_bytes"),
        ("dcsync_linked_bytes", "Bytes that were hard-linked instead of downloaded.", "linked_bytes"),
        ("dcsync_api_calls", "API calls used for published snapshots.", "calls"),
    ):
        total = CounterMetricFamily(name, words, labels=["account"])
        for account in status.accounts:
            total.add_metric([account.name], getattr(account.sums, value))
        yield total


def _by_code(account: AccountStatus) -> dict[str, int]:
    codes = [item.alert.code.value for item in account.alerts]
    return {code: codes.count(code) for code in sorted(set(codes))}
