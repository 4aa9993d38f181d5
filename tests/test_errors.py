"""The tree of errors: codes that stay, statuses, and words an operator can act on."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from dcsync import errors
from dcsync.errors import ConfigError, ConfigInvalid, DcsyncError, ExitStatus, Problem
from dcsync.log import redact

#: Codes stand in logs, scripts and alerts of operators: a change here is a change for them.
CODE_TABLE = """
    BadAnswer=A-ANSWER ApiError=A-API AccessRefused=A-DENIED NotFound=A-MISSING ApiUnreachable=A-NETWORK
    RateLimited=A-QUOTA BadRequest=A-REQUEST ApiFault=A-SERVER ConfigError=C-CONFIG ConfigInvalid=C-CONFIG
    SecretExposed=C-EXPOSED ConfigMissing=C-MISSING SecretUnavailable=C-SECRET
    SnapshotUnclear=C-SNAPSHOT ManifestCorrupt=D-CORRUPT
    ManifestError=D-MANIFEST ManifestNewer=D-NEWER IllegalTransition=D-STATE DcsyncError=DCSYNC JobBug=D-BUG
    ChecksumMismatch=F-CHECKSUM DiskError=F-DISK InodesExhausted=F-INODES DiskFault=F-IO DiskDenied=F-PERM
    DiskReadOnly=F-READONLY SizeMismatch=F-SIZE DiskFull=F-SPACE BadListing=L-LISTING ExtractMissing=L-MISSING
    MirrorForeign=M-FOREIGN MirrorLocked=M-LOCKED MassChange=M-MASS MirrorError=M-MIRROR MirrorTampered=M-TAMPERED
    MirrorNotMounted=M-UNMOUNTED ContentChanged=S-CHANGED StorageUnreachable=S-NETWORK StorageRefused=S-REFUSED
    StorageFault=S-SERVER TooSlow=S-SLOW StorageError=S-STORAGE UnsafeUrl=S-UNSAFE AuthError=T-AUTH
    ClientRejected=T-CLIENT TokenEndpointUnavailable=T-ENDPOINT TokenStoreExposed=T-EXPOSED LoginRequired=T-LOGIN
    TokenStoreUnusable=T-STORE TokenUndecided=T-UNDECIDED TokenStoreDamaged=T-DAMAGED LoginRefused=T-REFUSED
    NobodyToSignIn=T-NOBODY WrongUser=T-USER ServiceAccountRejected=T-ACCOUNT PrivateKeyUnusable=T-KEY
    MirrorMissing=M-MISSING DatabaseUnreachable=D-DATABASE DatabaseBusy=D-BUSY DatabaseRefused=D-REFUSED
    Fenced=D-FENCED ManifestMissing=D-MISSING
"""
CODES = dict(pair.split("=") for pair in CODE_TABLE.split())
#: Leaves whose hint depends on the case, so that the one who raises gives it.
HINT_BY_CASE = {"IllegalTransition", "MassChange", "MirrorForeign", "MirrorTampered"}
#: Every status but "incomplete, will be retried by the next run".
STATUSES = {
    1: "IllegalTransition JobBug",
    2: "ClientRejected ConfigError ConfigInvalid ConfigMissing DatabaseRefused ManifestNewer PrivateKeyUnusable "
    "SecretExposed SecretUnavailable SnapshotUnclear TokenStoreExposed WrongUser",
    11: "MirrorLocked",
    12: "LoginRefused LoginRequired NobodyToSignIn ServiceAccountRejected",
    13: "AccessRefused",
    14: "ManifestCorrupt MassChange MirrorForeign MirrorMissing MirrorNotMounted MirrorTampered",
}


def tree(top: type[DcsyncError] = DcsyncError) -> Iterator[type[DcsyncError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


#: Of ours: a test may make one of its own.
ALL = sorted({kind for kind in tree() if kind.__module__.startswith("dcsync.")}, key=lambda kind: kind.__name__)
LEAVES = [kind for kind in ALL if not kind.__subclasses__()]
every_error = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
every_leaf = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)


def make(kind: type[DcsyncError]) -> DcsyncError:
    if issubclass(kind, ConfigInvalid):
        return kind((Problem(file="c.toml", line=3, key="mirror.root", message="is missing"),))
    return kind("the file x is wrong")


def test_the_codes_are_what_they_were() -> None:
    now = {kind.__name__: kind.code for kind in ALL}

    assert {name: now.get(name) for name in CODES} == CODES
    assert all(re.fullmatch(r"[ACDFLMST]-[A-Z]+|DCSYNC", code) for code in now.values())


def test_no_two_errors_share_a_code_but_an_invalid_configuration_and_its_family() -> None:
    shared = {code for code, times in Counter(kind.code for kind in ALL).items() if times > 1}

    assert shared == {"C-CONFIG"}
    assert issubclass(ConfigInvalid, ConfigError)


def test_all_of_them_stand_in_one_module() -> None:
    assert {kind.__module__ for kind in ALL} == {errors.__name__}
    assert {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)} == {
        kind.__name__ for kind in ALL
    }


def test_the_statuses_are_those_of_the_readme() -> None:
    found = {status: [kind.__name__ for kind in ALL if kind.exit_status == status] for status in ExitStatus}

    assert {int(status): " ".join(names) for status, names in found.items() if names and status != 3} == STATUSES
    assert sorted(ExitStatus) == [0, 1, 2, 3, 11, 12, 13, 14, 130]


@every_error
def test_a_hint_is_one_plain_line_without_anything_like_a_secret(kind: type[DcsyncError]) -> None:
    assert kind.hint == redact(kind.hint)
    assert kind.hint.isprintable()
    assert not kind.hint.endswith((".", ":", " "))
    assert "?" not in kind.hint


@every_leaf
def test_a_leaf_has_a_hint_unless_each_case_needs_its_own(kind: type[DcsyncError]) -> None:
    assert (kind.hint == "") == (kind.__name__ in HINT_BY_CASE)


@every_error
def test_an_error_can_be_made_and_is_one_line(kind: type[DcsyncError]) -> None:
    error = make(kind)

    assert str(error) == error.message
    assert "\n" not in str(error)
    assert error.advice == kind.hint
    assert error.retry_after_s is None


def test_the_one_who_raises_may_give_a_better_hint_and_a_time() -> None:
    error = errors.RateLimited("429", status=429, hint="wait", retry_after_s=30.0)

    assert (error.advice, error.retry_after_s, error.status) == ("wait", 30.0, 429)
    assert errors.RateLimited("429", hint="").advice == ""


def test_an_invalid_configuration_has_a_line_for_each_problem() -> None:
    problems = (
        Problem(file="c.toml", line=3, key="mirror.root", message="is missing"),
        Problem(file="c.toml", line=None, key="auth", message="is missing"),
        Problem(file="c.toml", line=9, key="", message="not valid TOML"),
    )

    error = ConfigInvalid(problems)

    assert str(error).split("\n") == [
        "c.toml:3: mirror.root: is missing",
        "c.toml: auth: is missing",
        "c.toml:9: not valid TOML",
    ]
    assert error.problems == problems


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.transient], ids=lambda kind: kind.__name__)
def test_what_may_pass_by_itself_asks_for_another_run(kind: type[DcsyncError]) -> None:
    assert kind.exit_status is ExitStatus.INCOMPLETE


@pytest.mark.parametrize("family", [errors.StorageError, errors.ApiError], ids=lambda kind: kind.__name__)
def test_one_file_or_call_that_fails_does_not_end_the_run(family: type[DcsyncError]) -> None:
    assert [kind.__name__ for kind in tree(family) if kind.ends_run] == []


def test_a_file_that_is_wrong_each_time_is_told_from_one_that_was_unlucky() -> None:
    assert {kind.__name__ for kind in ALL if kind.poison} == {
        "BadListing",
        "ChecksumMismatch",
        "JobBug",
        "SizeMismatch",
        "UnsafeUrl",
    }
