"""`dcsync explain`: one code, or the list of all codes. Needs no configuration."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from dcsync.cli.group import dcsync as cli
from dcsync.cli.group import show_error
from dcsync.core.alerts import AlertCode
from dcsync.errors import ConfigMissing
from dcsync.explain import explanation, guide
from tests.cli.conftest import Dcsync


@pytest.mark.parametrize("typed", ["M-MASS", "m-mass"])
def test_a_code_is_explained_at_80_columns(dcsync: Dcsync, typed: str) -> None:
    result = dcsync("explain", typed)
    found, printed = explanation(AlertCode.M_MASS), " ".join(result.out.split())

    assert result.status == 0
    assert result.out.startswith("M-MASS (critical, exit status 14)\n")
    assert all(text in printed for text in (found.meaning, found.response, found.resolved, found.advice))
    assert max(map(len, result.out.splitlines())) <= 80


def test_every_code_fits_into_80_columns(dcsync: Dcsync) -> None:
    lines = [line for code in AlertCode for line in dcsync("explain", code.value).out.splitlines()]

    assert [line for line in lines if len(line) > 80] == []


def test_json_has_the_texts(dcsync: Dcsync) -> None:
    assert dcsync("explain", "L-LATE", "--json").json == explanation(AlertCode.L_LATE).json()


def test_without_a_code_all_codes_are_listed(dcsync: Dcsync) -> None:
    result = dcsync("explain")
    words = result.out.split()

    assert result.status == 0
    assert [code for code in AlertCode if code.value not in words] == []
    assert max(map(len, result.out.splitlines())) <= 80
    assert sorted(each["code"] for each in dcsync("explain", "--json").json["codes"]) == sorted(AlertCode)


def test_the_shell_completes_codes_in_either_case() -> None:
    complete = ShellComplete(cli, {}, "dcsync", "_DCSYNC_COMPLETE")

    assert [item.value for item in complete.get_completions(["explain"], "l-s")] == ["L-SLOW", "L-SCHEDULE", "L-STATUS"]


def test_an_unknown_code_gets_a_suggestion(dcsync: Dcsync) -> None:
    result = dcsync("explain", "L-LAET")

    assert result.status == 2
    assert "'L-LAET' is neither a code nor a guide of dcsync. Did you mean L-LATE?" in result.err


def test_a_word_that_is_like_no_code_gets_the_list(dcsync: Dcsync) -> None:
    result = dcsync("explain", "nonsense")

    assert result.status == 2
    assert "`dcsync explain` lists all codes" in result.err


def test_an_error_names_the_command_that_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(ConfigMissing("no configuration file found"))

    assert "  code: C-MISSING (dcsync explain C-MISSING)\n" in capsys.readouterr().err


def test_a_guide_is_printed(dcsync: Dcsync) -> None:
    assert dcsync("explain", "Network").out == guide("network")
    assert "several-hosts" in dcsync("explain").out


def test_an_unknown_guide_gets_a_suggestion(dcsync: Dcsync) -> None:
    assert "'netwrk' is neither a code nor a guide of dcsync. Did you mean network?" in dcsync("explain", "netwrk").err


def test_the_shell_completes_guides() -> None:
    complete = ShellComplete(cli, {}, "dcsync", "_DCSYNC_COMPLETE")

    assert [item.value for item in complete.get_completions(["explain"], "net")] == ["network"]
