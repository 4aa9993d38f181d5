"""The table of alert codes: what each means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dcsync.core.alerts import ALERT_KINDS, Alert, AlertCode, AlertScope
from dcsync.errors import RateLimited, every_error

# --- the table --------------------------------------------------------------------------------------------------------

#: Written by hand once more, so that no change goes unnoticed: monitors match on codes, and statuses decide.
#: Code, severity, scope, origin, exit status, the event that says that it began, and whether it may pass on its own.
TABLE = """
    L-LATE      warning  request autodesk  3 alert
    L-SLOW      warning  request autodesk  3 alert
    L-FAILED    warning  request autodesk  3 failure
    L-INACTIVE  warning  request autodesk  3 alert
    L-ENDS      warning  request autodesk  0 alert
    L-ENDED     critical request autodesk  3 alert
    L-GONE      critical request autodesk  3 alert
    L-SCHEDULE  warning  request autodesk  0 alert
    L-GAP       warning  request autodesk  3 alert
    L-EXPIRING  critical job     here      3 alert
    L-LOST      warning  job     here      0 alert
    L-STATUS    critical job     autodesk  3 alert
    L-ENTRY     critical account autodesk  3 alert
    L-PROJECT   critical account autodesk  3 alert
    L-REQUEST   warning  request autodesk  3 alert
    L-LIST      warning  account autodesk  3 alert
    L-NONE      warning  account autodesk  3 alert
    C-NOMATCH   critical account here      2 alert
    C-ACCOUNT   warning  mirror  here      0 alert
    L-ROWS      warning  request autodesk  0 alert
    L-COLUMNS   warning  request autodesk  0 alert
    L-TABLE     warning  request autodesk  0 alert
    L-ZIP       warning  request autodesk  0 alert
    L-PARTIAL   critical request autodesk  3 alert
    T-DEADLINE  warning  account here      0 alert
    M-EMPTY     critical request here      3 alert
    M-TRASH     warning  mirror  here      0 alert
    M-PRUNE     warning  job     here      0 alert
    M-LATEST    warning  request here      0 alert
    M-NESTED    warning  mirror  here      0 alert
    F-APART     warning  mirror  here      0 alert
    F-MODE      warning  mirror  here      0 alert
    F-LAYER     warning  mirror  here      0 alert
    V-DAMAGED   critical account here      3 alert
    V-EXTRA     warning  account here      0 alert
    H-FAILED    warning  hook    here      3 alert
    P-LISTEN    warning  mirror  here      3 alert
    P-ORDERS    warning  mirror  here      0 alert
    P-REPORT    warning  mirror  here      3 alert
    P-METRICS   warning  mirror  here      3 alert
    R-HISTORY   warning  account here      0 alert
    D-CHORE     warning  mirror  here      3 alert
    D-ALERTS    warning  account here      3 alert
    DCSYNC      critical job     here      3 alert
    C-CONFIG    critical mirror  here      2 alert
    C-MISSING   critical mirror  here      2 alert
    C-SECRET    critical mirror  here      2 alert
    C-EXPOSED   critical mirror  here      2 alert
    C-SNAPSHOT  critical mirror  here      2 alert
    C-TABLE     critical mirror  here      2 alert
    A-API       critical job     here      3 alert
    A-NETWORK   warning  job     here      3 failure may-pass
    A-SERVER    warning  job     here      3 failure may-pass
    A-QUOTA     warning  mirror  here      3 failure may-pass
    A-ANSWER    warning  job     here      3 failure may-pass
    A-REQUEST   critical job     here      3 alert
    A-DENIED    critical job     here     13 alert
    A-MISSING   critical job     here      3 alert
    A-UNCONFIRMED critical job   here      3 alert
    T-AUTH      critical mirror  here      3 alert
    T-LOGIN     critical mirror  here     12 alert
    T-REFUSED   critical mirror  here     12 alert
    T-NOBODY    critical mirror  here     12 alert
    T-USER      critical mirror  here      2 alert
    T-ACCOUNT   critical mirror  here     12 alert
    T-KEY       critical mirror  here      2 alert
    T-CLIENT    critical mirror  here      2 alert
    T-UNDECIDED warning  mirror  here      3 failure may-pass
    T-ENDPOINT  warning  mirror  here      3 failure may-pass
    T-STORE     critical mirror  here      3 alert
    T-DAMAGED   critical mirror  here      3 alert
    T-EXPOSED   critical mirror  here      2 alert
    S-STORAGE   warning  job     here      3 failure may-pass
    S-NETWORK   warning  job     here      3 failure may-pass
    S-REFUSED   warning  job     here      3 failure may-pass
    S-SERVER    warning  job     here      3 failure may-pass
    S-SLOW      warning  job     here      3 failure may-pass
    S-CHANGED   warning  job     here      3 failure may-pass
    S-RANGE     critical job     here      3 alert
    F-SIZE      warning  job     here      3 failure may-pass
    F-CHECKSUM  warning  job     here      3 failure may-pass
    S-UNSAFE    critical job     here      3 alert
    L-LISTING   warning  job     here      3 failure may-pass
    L-MISSING   warning  job     here      3 failure may-pass
    L-EMPTY     warning  job     here      3 failure may-pass
    C-NOTABLES  critical job     here      2 alert
    D-BUG       critical job     here      1 alert
    R-ROWS      warning  job     here      3 failure may-pass
    R-CSV       critical job     here      3 alert
    R-LOAD      warning  mirror  here      3 failure may-pass
    F-DISK      warning  job     here      3 failure may-pass
    F-SPACE     warning  job     here      3 failure may-pass
    F-INODES    warning  job     here      3 failure may-pass
    F-READONLY  warning  mirror  here      3 failure may-pass
    F-PERM      critical job     here      3 alert
    F-IO        warning  mirror  here      3 failure may-pass
    F-HUNG      critical mirror  here     14 alert
    M-MIRROR    critical mirror  here      3 alert
    M-LOCKED    critical mirror  here     11 alert
    M-UNMOUNTED critical mirror  here     14 alert
    M-MISSING   critical mirror  here     14 alert
    M-FOREIGN   critical mirror  here     14 alert
    M-MASS      critical mirror  here     14 alert
    M-TAMPERED  critical job     here     14 alert
    D-MANIFEST  warning  mirror  here      3 failure may-pass
    D-NEWER     critical mirror  here      2 alert
    D-CORRUPT   critical mirror  here     14 alert
    D-MISSING   warning  mirror  here      3 failure may-pass
    D-DATABASE  warning  mirror  here      3 failure may-pass
    D-BUSY      warning  mirror  here      3 failure may-pass
    D-REFUSED   critical mirror  here      2 alert
    D-FENCED    warning  job     here      3 failure may-pass
    D-STATE     critical job     here      1 alert
    D-THREADS   warning  mirror  here      3 failure may-pass
    D-DAEMON    warning  job     here      3 failure may-pass
"""


def test_each_code_means_what_the_table_says() -> None:
    found = [
        [
            *(kind.code, kind.severity, kind.scope, kind.origin, str(int(kind.exit_status)), kind.event),
            *(["may-pass"] if kind.may_pass else []),
        ]
        for kind in ALERT_KINDS.values()
    ]

    assert found == [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("code", AlertCode)
def test_every_code_has_a_hint(code: AlertCode) -> None:
    assert len(ALERT_KINDS[code].hint) > 10
    assert Alert.of(code, account="acme", message="m").hint == ALERT_KINDS[code].hint


def test_every_error_can_become_an_alert_by_its_fields() -> None:
    for kind in every_error():
        alert = ALERT_KINDS[AlertCode(kind.code)]
        assert (alert.exit_status, alert.may_pass) == (kind.exit_status, kind.transient), kind


def test_a_class_of_errors_with_a_hint_gives_it_to_its_code() -> None:
    own = {kind.code: kind.hint for kind in every_error() if "code" in vars(kind) and kind.hint}

    assert len(own) > 20
    assert {code: ALERT_KINDS[AlertCode(code)].hint for code in own} == own


def test_the_hint_for_an_end_names_the_way_to_say_that_it_is_wanted() -> None:
    for code in (AlertCode.L_ENDS, AlertCode.L_ENDED):
        assert "move its end date" in ALERT_KINDS[code].hint
        assert "[[account]] retired" in ALERT_KINDS[code].hint


def test_account_code_and_subject_identify_an_alert() -> None:
    alert = Alert.of(AlertCode.L_LATE, account="acme", message="late", subject="nightly")

    assert alert.key == ("acme", "L-LATE", "nightly")
    assert alert.kind is ALERT_KINDS[AlertCode.L_LATE]


@pytest.mark.parametrize(("code", "passes"), [(AlertCode.L_LATE, False), (AlertCode.A_QUOTA, True)])
def test_an_alert_may_pass_if_its_code_may_or_its_maker_says_so(code: AlertCode, passes: bool) -> None:
    alert = Alert.of(code, account="acme", message="m")

    assert (alert.may_pass, alert.is_final) == (passes, False)
    assert Alert.of(code, account="acme", message="m", may_pass=True).may_pass


def test_alerts_that_differ_in_the_fields_of_their_event_only_are_the_same() -> None:
    alert = Alert(account="acme", code=AlertCode.L_LATE, message="m", hint="h", scope=AlertScope.REQUEST)

    assert alert == replace(alert, data={"slots": 3})
    assert (alert.may_pass, alert.is_final) == (False, False)


def test_an_error_s_own_hint_goes_before_that_of_its_code() -> None:
    alert = Alert.of_error(RateLimited("too many calls", hint="wait"), account="acme")

    assert (alert.code, alert.message, alert.hint, alert.may_pass) == ("A-QUOTA", "too many calls", "wait", True)


def test_a_code_of_another_version_is_read_as_that_of_an_unknown_error() -> None:
    assert AlertCode.parse("X-FUTURE") is AlertCode.DCSYNC
