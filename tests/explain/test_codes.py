"""Every code has an explanation in whole sentences."""

from __future__ import annotations

import re

import pytest

from dcsync.core.alerts import ALERT_KINDS, AlertCode
from dcsync.errors import every_error
from dcsync.explain import Explanation, explanation, sections

ALL = [each for section in sections() for each in section.explanations]


def texts(each: Explanation) -> list[str]:
    return [each.meaning, each.response, each.resolved, each.advice]


def test_every_code_of_an_alert_and_of_an_error_is_explained_once() -> None:
    codes = [each.code for each in ALL]

    assert sorted(codes) == sorted(AlertCode)
    assert {kind.code for kind in every_error()} <= set(codes)


@pytest.mark.parametrize("each", ALL, ids=lambda each: str(each.code))
def test_the_texts_are_whole_sentences(each: Explanation) -> None:
    for text in texts(each):
        assert re.match(r"[A-Z`\[]|dcsync ", text), text
        assert text.endswith("."), text
        assert "  " not in text
        assert text.count("`") % 2 == 0, text
        assert len(each.summary) < 200


@pytest.mark.parametrize("each", ALL, ids=lambda each: str(each.code))
def test_an_explanation_mentions_only_codes_that_exist(each: Explanation) -> None:
    known = {code.value for code in AlertCode}
    assert set(re.findall(r"`([A-Z]-[A-Z]+)`", " ".join(texts(each)))) <= known


def test_a_code_has_the_severity_and_the_exit_status_of_its_alerts() -> None:
    found = explanation(AlertCode.L_ENDED)

    assert found.kind is ALERT_KINDS[AlertCode.L_ENDED]
    assert found.section == "Data at Autodesk"
    assert found.summary == "The schedule of a data request has ended"
    assert found.json() == {
        "code": "L-ENDED",
        "section": "Data at Autodesk",
        "severity": "critical",
        "exit_status": 3,
        "meaning": found.meaning,
        "response": found.response,
        "resolved": found.resolved,
        "advice": found.advice,
    }
