"""The tree of errors: stable codes, exit statuses, and hints that an operator can follow."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator

import pytest

from dcsync import errors
from dcsync.errors import (
    ConfigError,
    ConfigInvalid,
    ConfigMistake,
    DcsyncError,
    DiskError,
    ExitStatus,
    LoadFailed,
    LoginRequired,
    PlaceUnusable,
    RowsFailed,
    RowsInterrupted,
    Scope,
    ValueRefused,
)
from dcsync.log import redact

#: Written by hand, so that no change goes unnoticed: operators use codes and statuses in scripts, and scopes decide
#: what a run still mirrors. Class, code, scope, exit status, and whether a retry helps or the content is bad.
TABLE = """
    BadAnswer                A-ANSWER    job      3 transient
    ApiError                 A-API       job      3
    AccessRefused            A-DENIED    job     13
    NotFound                 A-MISSING   job      3
    ApiUnreachable           A-NETWORK   job      3 transient
    RateLimited              A-QUOTA     run      3 transient
    BadRequest               A-REQUEST   job      3
    Unconfirmed              A-UNCONFIRMED job    3
    PartsFailed              A-API       job      3
    ApiFault                 A-SERVER    job      3 transient
    ConfigError              C-CONFIG    run      2
    ConfigInvalid            C-CONFIG    run      2
    KeyIdUnchanged           C-CONFIG    run      2
    NotStateOwner            C-CONFIG    run      2
    ServiceSetupFailed       C-CONFIG    run      2
    SecretExposed            C-EXPOSED   run      2
    ConfigMissing            C-MISSING   run      2
    ConfigUnreadable         C-CONFIG    run      2
    SecretUnavailable        C-SECRET    run      2
    NothingSelected          C-NOTABLES  job      2
    SnapshotUnclear          C-SNAPSHOT  run      2
    TableUnclear             C-TABLE     run      2
    Bug                      D-BUG       job      1 poison
    DatabaseBusy             D-BUSY      run      3 transient
    ManifestCorrupt          D-CORRUPT   run     14
    DatabaseUnreachable      D-DATABASE  run      3 transient
    Fenced                   D-FENCED    job      3 transient
    ManifestError            D-MANIFEST  run      3 transient
    ManifestMissing          D-MISSING   run      3 transient
    ManifestNewer            D-NEWER     run      2
    DatabaseRefused          D-REFUSED   run      2
    IllegalTransition        D-STATE     job      1
    NoThreads                D-THREADS   run      3 transient
    DaemonGone               D-DAEMON    job      3 transient
    DcsyncError              DCSYNC      job      3
    ChecksumMismatch         F-CHECKSUM  file     3 transient poison
    DiskError                F-DISK      job      3 transient
    DiskHung                 F-HUNG      run     14
    InodesExhausted          F-INODES    job      3 transient
    OtherFileSystem          F-DISK      job      3 transient
    PlaceUnusable            F-DISK      job      3 transient
    DiskFault                F-IO        run      3 transient
    DiskDenied               F-PERM      job      3
    DiskReadOnly             F-READONLY  run      3 transient
    SizeMismatch             F-SIZE      file     3 transient poison
    DiskFull                 F-SPACE     job      3 transient
    BadListing               L-LISTING   job      3 transient poison
    ExtractEmpty             L-EMPTY     job      3 transient
    ExtractMissing           L-MISSING   job      3 transient
    MirrorForeign            M-FOREIGN   run     14
    MirrorLocked             M-LOCKED    run     11
    MassChange               M-MASS      run     14
    MirrorError              M-MIRROR    run      3
    MirrorMissing            M-MISSING   run     14
    MirrorTampered           M-TAMPERED  job     14
    MirrorNotMounted         M-UNMOUNTED run     14
    RowsUnproved             R-ROWS      job      3 transient
    RowsUnreadable           R-CSV       job      3
    RowsFailed               R-ROWS      job      3 transient
    RowsInterrupted          R-ROWS      job      3 transient
    LoadFailed               R-LOAD      run      3 transient
    LoadInterrupted          R-LOAD      run      3 transient
    LoadRefused              R-LOAD      run      3 transient
    TargetUnusable           R-LOAD      run      3 transient
    ValueRefused             R-LOAD      run      3 transient
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
    ReadOnlySignIn           T-AUTH      run      3
    LoginRefused             T-REFUSED   run     12
    TokenStoreUnusable       T-STORE     run      3
    TokenUndecided           T-UNDECIDED run      3 transient
    WrongUser                T-USER      run      2
"""
#: Leaves whose hint depends on the case, so the code that raises them gives it.
HINT_BY_CASE = {"IllegalTransition", "MassChange", "MirrorForeign", "MirrorTampered"}


def tree(top: type[DcsyncError] = DcsyncError) -> Iterator[type[DcsyncError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


#: Only dcsync's own classes: a test may define another one.
ALL = sorted({kind for kind in tree() if kind.__module__.startswith("dcsync.")}, key=lambda kind: kind.__name__)
LEAVES = [kind for kind in ALL if not kind.__subclasses__()]
every_error = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
every_leaf = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)


def make(kind: type[DcsyncError]) -> DcsyncError:
    if issubclass(kind, ConfigInvalid):
        return kind((ConfigMistake(file="c.toml", line=3, key="mirror.root", message="is missing"),))
    if issubclass(kind, ValueRefused):
        return kind("file:///x", "users", "it is wrong", column="id", place="row 1")
    if issubclass(kind, LoadFailed):
        return kind("file:///x", "users", "it is wrong")
    return kind("the file x is wrong")


def test_every_error_matches_the_table() -> None:
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


def test_the_exit_statuses_are_those_of_the_readme() -> None:
    assert sorted(ExitStatus) == [0, 1, 2, 3, 11, 12, 13, 14, 130]


def test_only_storage_errors_have_the_scope_of_a_file() -> None:
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


def test_an_error_with_another_message_keeps_its_class_fields_and_traceback() -> None:
    with pytest.raises(errors.ApiFault) as caught:
        raise errors.ApiFault("busy", status=503, hint="wait", retry_after_s=2.0)

    other = caught.value.with_message("a.csv: busy")

    assert type(other) is errors.ApiFault
    assert (str(other), other.message, other.advice) == ("a.csv: busy", "a.csv: busy", "wait")
    assert (other.status, other.retry_after_s) == (503, 2.0)
    assert other.__traceback__ is caught.value.__traceback__ is not None
    assert (str(caught.value), caught.value.message) == ("busy", "busy")


def test_python_can_still_set_a_traceback_and_add_notes() -> None:
    error = errors.NotFound("x")

    error.__traceback__ = None
    error.add_note("seen twice")

    assert error.__notes__ == ["seen twice"]


def test_codes_are_unique_except_those_that_a_class_has_from_its_parent() -> None:
    shared = {code for code, times in Counter(kind.code for kind in ALL).items() if times > 1}

    assert shared == {"A-API", "C-CONFIG", "F-DISK", "R-LOAD", "R-ROWS", "T-AUTH"}
    assert issubclass(ConfigInvalid, ConfigError)
    assert PlaceUnusable.__bases__ == (DiskError,)
    assert RowsInterrupted.__bases__ == (RowsFailed,)


def test_one_module_has_every_error() -> None:
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
def test_an_error_is_one_line(kind: type[DcsyncError]) -> None:
    error = make(kind)

    assert str(error) == error.message
    assert "\n" not in str(error)
    assert error.advice == kind.hint
    assert error.retry_after_s is None


def test_the_code_that_raises_an_error_can_give_a_better_hint_and_a_time() -> None:
    error = errors.RateLimited("429", status=429, hint="wait", retry_after_s=30.0)

    assert (error.advice, error.retry_after_s, error.status) == ("wait", 30.0, 429)
    assert errors.RateLimited("429", hint="").advice == ""


def test_an_invalid_configuration_has_a_line_for_each_mistake() -> None:
    mistakes = (
        ConfigMistake(file="c.toml", line=3, key="mirror.root", message="is missing"),
        ConfigMistake(file="c.toml", line=None, key="auth", message="is missing"),
        ConfigMistake(file="c.toml", line=9, key="", message="not valid TOML"),
    )

    error = ConfigInvalid(mistakes)

    assert str(error).split("\n") == [
        "c.toml:3: mirror.root: is missing",
        "c.toml: auth: is missing",
        "c.toml:9: not valid TOML",
    ]
    assert error.mistakes == mistakes


def test_a_lock_of_a_daemon_says_how_to_stop_it() -> None:
    """A daemon does not end on its own, so "wait" is not a hint."""
    daemon = errors.MirrorLocked("another dcsync uses the mirror", pid=9057, role="run")
    command = errors.MirrorLocked("another dcsync uses the mirror", pid=9057, role="sync")

    assert daemon.advice.startswith("stop the daemon first: systemctl stop dcsync")
    assert command.advice == errors.MirrorLocked.hint
    assert errors.MirrorLocked("x", role="run", hint="ask").advice == "ask"


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.transient], ids=lambda kind: kind.__name__)
def test_a_transient_error_asks_for_another_run(kind: type[DcsyncError]) -> None:
    assert kind.exit_status is ExitStatus.INCOMPLETE


def test_a_required_sign_in_is_for_root_too() -> None:
    """On a server, `sudo dcsync login` signs the service in."""
    assert "as the user that runs dcsync, or as root" in LoginRequired("").advice
