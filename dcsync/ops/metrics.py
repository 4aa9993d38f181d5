"""Figures for Prometheus, from the status alone: the same for a scrape and for a file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dcsync import __version__
from dcsync.ops.status import AccountStatus, Status
from dcsync.tasks import DiskThreads

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(status: Status) -> bytes:
    """Return the figures in Prometheus' text form."""
    # Imported when it is asked for: 40 ms that no other command should pay.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class _FromStatus(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _metrics(status)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromStatus())
    return generate_latest(registry)


async def write_textfile(disk: DiskThreads, path: Path, status: Status) -> None:
    """Write the metrics for node_exporter's textfile collector, in one step. Raises `OSError`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        async with disk.open(aside, "wb") as file:
            await file.write(await disk.run(render, status))
        await disk.run(_put_in_place, aside, path)
    finally:
        await disk.run(aside.unlink, missing_ok=True)


def _put_in_place(aside: Path, path: Path) -> None:
    aside.chmod(0o644)  # node_exporter is another user
    aside.replace(path)


def _metrics(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    info = GaugeMetricFamily("dcsync_build_info", "The version that runs, and where.", labels=["version", "host"])
    info.add_metric([__version__, socket.gethostname()], 1)
    yield info
    if status.hosts:
        yield from _hosts(status)
    yield from _times(status)
    yield from _states(status)
    yield from _totals(status)
    yield GaugeMetricFamily("dcsync_quota_limit", "API calls a minute that are allowed.", value=status.quota_limit)
    yield GaugeMetricFamily("dcsync_quota_used", "API calls of the last minute.", value=status.quota_used)
    if status.free_bytes is not None:
        yield GaugeMetricFamily("dcsync_disk_free_bytes", "Free bytes of the mirror's disk.", value=status.free_bytes)
    if status.token_refresh_by is not None:
        yield GaugeMetricFamily(
            "dcsync_token_refresh_by_timestamp_seconds",
            "When the refresh token ends if it is not renewed.",
            value=status.token_refresh_by.timestamp(),
        )


def _hosts(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    labels = ["host", "pid"]
    up = GaugeMetricFamily("dcsync_host_up", "1 while the host was heard of in the last half minute.", labels=labels)
    seen = GaugeMetricFamily("dcsync_host_seen_timestamp_seconds", "When the host was last heard of.", labels=labels)
    busy = GaugeMetricFamily("dcsync_host_busy", "1 while the host has something in hand.", labels=labels)
    for host in status.hosts:
        names = [host.name, str(host.pid)]
        up.add_metric(names, float(host.is_alive))
        seen.add_metric(names, host.seen_at.timestamp())
        busy.add_metric(names, float(host.is_alive and bool(host.doing)))
    yield from (up, seen, busy)


def _times(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for name, words, value in (
        # Never moved by a failure: an alert on its age is the one that matters.
        ("last_success", "When the account was last mirrored with nothing left to do.", "last_success"),
        ("last_poll", "When the account was last asked for jobs.", "last_poll"),
        ("newest_snapshot", "When the newest mirrored extract was completed upstream.", "newest_completed_at"),
    ):
        family = GaugeMetricFamily(f"dcsync_{name}_timestamp_seconds", words, labels=["account"])
        for account in status.accounts:
            moment = getattr(account, value)
            if isinstance(moment, datetime):
                family.add_metric([account.name], moment.timestamp())
        yield family


def _states(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    stale = GaugeMetricFamily("dcsync_stale", "1 while the account is not fresh.", labels=["account"])
    jobs = GaugeMetricFamily("dcsync_jobs", "Known jobs by state.", labels=["account", "state"])
    alerts = GaugeMetricFamily("dcsync_attention", "Alerts that stand, by code.", labels=["account", "code"])
    for account in status.accounts:
        stale.add_metric([account.name], float(account.is_stale))
        for state, count in account.jobs.items():
            jobs.add_metric([account.name, state], count)
        for code, count in _by_code(account).items():
            alerts.add_metric([account.name, code], count)
    yield from (stale, jobs, alerts)


def _totals(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    for name, words, value in (
        ("dcsync_snapshots", "Snapshots published.", "snapshots"),
        ("dcsync_fetched_bytes", "Bytes fetched for published snapshots.", "fetched_bytes"),
        ("dcsync_linked_bytes", "Bytes that did not have to be fetched.", "linked_bytes"),
        ("dcsync_api_calls", "API calls spent on published snapshots.", "calls"),
    ):
        total = CounterMetricFamily(name, words, labels=["account"])
        for account in status.accounts:
            total.add_metric([account.name], getattr(account.sums, value))
        yield total


def _by_code(account: AccountStatus) -> dict[str, int]:
    codes = [item.alert.code.value for item in account.alerts]
    return {code: codes.count(code) for code in sorted(set(codes))}
