"""The tree of errors: codes that stay, statuses, and words an operator can act on."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator

import pytest

from dcsync import errors
from dcsync.errors import ConfigError, ConfigInvalid, ConfigMistake, DcsyncError, ExitStatus, Scope
from dcsync.log import redact

#: Written by hand, so that no change goes unnoticed: operators have codes and statuses in scripts, and scopes decide
#: what a run still mirrors. Class, code, scope, exit status, and whether a retry helps or the content is bad.
TABLE = """
    BadAnswer                A-ANSWER    job      3 transient
    ApiError                 A-API       job      3
    AccessRefused            A-DENIED    job     13
    NotFound                 A-MISSING   job      3
    ApiUnreachable           A-NETWORK   run      3 transient
    RateLimited              A-QUOTA     run      3 transient
    BadRequest               A-REQUEST   job      3
    ApiFault                 A-SERVER    account  3 transient
    ConfigError              C-CONFIG    run      2
    ConfigInvalid            C-CONFIG    run      2
    SecretExposed            C-EXPOSED   run      2
    ConfigMissing            C-MISSING   run      2
    SecretUnavailable        C-SECRET    run      2
    SnapshotUnclear          C-SNAPSHOT  run      2
    JobBug                   D-BUG       job      1 poison
    DatabaseBusy             D-BUSY      run      3 transient
    ManifestCorrupt          D-CORRUPT   run     14
    DatabaseUnreachable      D-DATABASE  run      3 transient
    Fenced                   D-FENCED    job      3 transient
    ManifestError            D-MANIFEST  run      3 transient
    ManifestMissing          D-MISSING   run      3 transient
    ManifestNewer            D-NEWER     run      2
    DatabaseRefused          D-REFUSED   run      2
    IllegalTransition        D-STATE     job      1
    DcsyncError              DCSYNC      job      3
    ChecksumMismatch         F-CHECKSUM  file     3 transient poison
    DiskError                F-DISK      run      3 transient
    InodesExhausted          F-INODES    job      3 transient
    DiskFault                F-IO        run      3 transient
    DiskDenied               F-PERM      run      3
    DiskReadOnly             F-READONLY  run      3 transient
    SizeMismatch             F-SIZE      file     3 transient poison
    DiskFull                 F-SPACE     job      3 transient
    BadListing               L-LISTING   job      3 transient poison
    ExtractMissing           L-MISSING   job      3 transient
    MirrorForeign            M-FOREIGN   run     14
    MirrorLocked             M-LOCKED    run     11
    MassChange               M-MASS      run     14
    MirrorError              M-MIRROR    run      3
    MirrorMissing            M-MISSING   run     14
    MirrorTampered           M-TAMPERED  job     14
    MirrorNotMounted         M-UNMOUNTED run     14
    ContentChanged           S-CHANGED   file     3 transient
    StorageUnreachable       S-NETWORK   file     3 transient
    RangeIgnored             S-RANGE     file     3
    StorageRefused           S-REFUSED   file     3 transient
    StorageFault             S-SERVER    file     3 transient
    TooSlow                  S-SLOW      file     3 transient
    StorageError             S-STORAGE   file     3 transient
    UnsafeUrl                S-UNSAFE    file     3 poison
    ServiceAccountRejected   T-ACCOUNT   run     12
    AuthError                T-AUTH      run      3
    ClientRejected           T-CLIENT    run      2
    TokenStoreDamaged        T-DAMAGED   run      3
    TokenEndpointUnavailable T-ENDPOINT  run      3 transient
    TokenStoreExposed        T-EXPOSED   run      2
    PrivateKeyUnusable       T-KEY       run      2
    LoginRequired            T-LOGIN     run     12
    NobodyToSignIn           T-NOBODY    run     12
    LoginRefused             T-REFUSED   run     12
    TokenStoreUnusable       T-STORE     run      3
    TokenUndecided           T-UNDECIDED run      3 transient
    WrongUser                T-USER      run      2
"""
#: Leaves whose hint depends on the case, so that the one who raises gives it.
HINT_BY_CASE = {"IllegalTransition", "MassChange", "MirrorForeign", "MirrorTampered"}


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
        return kind((ConfigMistake(file="c.toml", line=3, key="mirror.root", message="is missing"),))
    return kind("the file x is wrong")


def test_every_error_is_as_the_table_says() -> None:
    expected = [line.split() for line in TABLE.strip().splitlines()]
    flags = ("transient", "poison")

    now = {
        kind.__name__: [
            kind.code,
            kind.scope,
            str(int(kind.exit_status)),
            *(flag for flag in flags if getattr(kind, flag)),
        ]
        for kind in ALL
    }

    assert now == {name: fields for name, *fields in expected}
    assert len(expected) == len(ALL)


def test_the_statuses_are_those_of_the_readme() -> None:
    assert sorted(ExitStatus) == [0, 1, 2, 3, 11, 12, 13, 14, 130]


def test_an_account_stops_at_an_error_that_its_other_jobs_would_meet_too() -> None:
    assert {scope: scope.stops_account for scope in Scope} == {
        "file": False,
        "job": False,
        "account": True,
        "run": True,
    }


def test_only_what_the_file_store_did_concerns_a_single_file() -> None:
    """Fetching catches `StorageError` file by file, so the scope and the family must stay the same."""
    assert {kind for kind in ALL if kind.scope is Scope.FILE} == set(tree(errors.StorageError))


@every_error
def test_no_field_of_an_error_can_change(kind: type[DcsyncError]) -> None:
    error = make(kind)
    before = vars(error).copy()

    for field in (*before, "hint", "code", "scope", "args"):
        with pytest.raises(AttributeError, match=f"^{field} of {kind.__name__} is already set"):
            setattr(error, field, "another")

    assert vars(error) == before


def test_an_error_under_another_message_keeps_its_class_fields_and_traceback() -> None:
    with pytest.raises(errors.ApiFault) as caught:
        raise errors.ApiFault("busy", status=503, hint="wait", retry_after_s=2.0)

    other = caught.value.with_message("a.csv: busy")

    assert type(other) is errors.ApiFault
    assert (str(other), other.message, other.advice) == ("a.csv: busy", "a.csv: busy", "wait")
    assert (other.status, other.retry_after_s) == (503, 2.0)
    assert other.__traceback__ is caught.value.__traceback__ is not None
    assert (str(caught.value), caught.value.message) == ("busy", "busy")


def test_python_may_still_note_where_an_error_went() -> None:
    error = errors.NotFound("x")

    error.__traceback__ = None
    error.add_note("seen twice")

    assert error.__notes__ == ["seen twice"]


def test_no_two_errors_share_a_code_but_an_invalid_configuration_and_its_family() -> None:
    shared = {code for code, times in Counter(kind.code for kind in ALL).items() if times > 1}

    assert shared == {"C-CONFIG"}
    assert issubclass(ConfigInvalid, ConfigError)


def test_all_of_them_stand_in_one_module() -> None:
    assert {kind.__module__ for kind in ALL} == {errors.__name__}
    assert {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)} == {
        kind.__name__ for kind in ALL
    }


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
        ConfigMistake(file="c.toml", line=3, key="mirror.root", message="is missing"),
        ConfigMistake(file="c.toml", line=None, key="auth", message="is missing"),
        ConfigMistake(file="c.toml", line=9, key="", message="not valid TOML"),
    )

    error = ConfigInvalid(problems)

    assert str(error).split("\n") == [
        "c.toml:3: mirror.root: is missing",
        "c.toml: auth: is missing",
        "c.toml:9: not valid TOML",
    ]
    assert error.mistakes == problems


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.transient], ids=lambda kind: kind.__name__)
def test_what_may_pass_by_itself_asks_for_another_run(kind: type[DcsyncError]) -> None:
    assert kind.exit_status is ExitStatus.INCOMPLETE
