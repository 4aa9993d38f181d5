"""Builders of `_dcsync.json`, as a snapshot has it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dcsync.core import sidecar
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Choice, Method, Price, Rejection
from dcsync.core.model import AccountName, How, Job, JobId, Json
from dcsync.core.sidecar import Adopted, Changes, Decisions, Provenance
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange, TableFacts, TableKind
from tests.fakes import ACCOUNT_ID, NOON, make_job, make_record, make_stored, make_transfer

TABLE = TableFacts(header=("id", "name"), rows=3, is_cut=True)
COLUMNS = (ColumnChange(table="d.csv", added=("x",)),)
CHANGES = Changes(against=JobId("j0"), added=("b.csv",), removed=("c.csv",), unchanged=1, columns=COLUMNS)
WARNINGS = (TableWarning(code="L-ROWS", table="d.csv", message="has 1 row"),)
SUMMARY = Summary(files=2, size=13, rows=3, added=1, removed=1, columns=COLUMNS, warnings=WARNINGS)
FOLDER = "acme/r/2026/11/22/x"
CHOSEN = Price(method=Method.RANGES, calls=2, size=900, requests=4, seconds=1.26)
REJECTED = Price(method=Method.WHOLE, calls=2, size=5400, requests=1, seconds=1.2)


def make_provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "dcsync": "1.0",
        "account": AccountName("acme"),
        "account_id": ACCOUNT_ID,
        "record": make_record(
            job=make_job(started_at=NOON - timedelta(minutes=30), project_id="p1"),
            folder=FOLDER,
            published_at=NOON + timedelta(minutes=5),
            transfer=make_transfer(strategy="archive"),
            summary=SUMMARY,
        ),
        "files": (
            make_stored(),
            make_stored(
                "b.csv", b"hello", how=How.LINKED, md5=None, etag=None, packed=7, table=TABLE, kind=TableKind.WINDOW
            ),
        ),
        "decisions": Decisions(
            method=Method.RANGES,
            reason="ranges: the cheapest",
            choice=Choice(price=CHOSEN, prices=(CHOSEN, REJECTED), rejected={Method.WHOLE: Rejection.MORE_BYTES}),
            files={"b.csv": "as before"},
            skipped=(("autodesk_data_extract.zip", "repeats the other files"),),
        ),
        "changes": CHANGES,
        "listed_at": {"admin_users.csv": NOON},
    }
    return Provenance(**{**values, **changes})


def make_described(
    *, description: str, is_delta: bool | None = False, job: Job | None = None, **changes: Any
) -> Provenance:
    """Return what is known of a snapshot whose request and job are these; its record is compared as times allow."""
    record = make_provenance().record
    request = replace(
        record.request, description=description, is_delta=is_delta is True, is_described=is_delta is not None
    )
    return make_provenance(record=replace(record, request=request, job=job or record.job), **changes)


def make_document(**changes: Json) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sidecar.render(make_provenance()))
    return {**document, **changes}


def parse(document: Json) -> Adopted:
    return sidecar.parse(json.dumps(document).encode(), folder=FOLDER)
