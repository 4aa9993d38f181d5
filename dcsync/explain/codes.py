"""The texts of the codes, read from `codes.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dcsync.core.alerts import ALERT_KINDS, AlertCode, AlertKind
from dcsync.core.model import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One code. The texts are whole sentences, and have backticks around commands, keys and paths."""

    code: AlertCode
    #: The title of its section.
    section: str
    meaning: str
    #: What dcsync does.
    response: str
    #: When the alert ends.
    resolved: str
    #: What to do.
    advice: str

    @property
    def kind(self) -> AlertKind:
        """The severity and the exit status of the code."""
        return ALERT_KINDS[self.code]

    @property
    def summary(self) -> str:
        """The first sentence of its meaning."""
        return self.meaning.partition(". ")[0].rstrip(".")

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `dcsync explain --json`."""
        return {
            "code": self.code.value,
            "section": self.section,
            "severity": self.kind.severity.value,
            "exit_status": int(self.kind.exit_status),
            "meaning": self.meaning,
            "response": self.response,
            "resolved": self.resolved,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The codes of one topic."""

    title: str
    intro: str
    explanations: tuple[Explanation, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return all codes by topic."""
    text = resources.files("dcsync.explain").joinpath("codes.toml").read_text(encoding="utf-8")
    return tuple(_section(found) for found in tomllib.loads(text)["section"])


def explanation(code: AlertCode) -> Explanation:
    """Return the explanation of a code."""
    return next(each for section in sections() for each in section.explanations if each.code is code)


def _section(found: dict[str, Any]) -> Section:
    title = found["title"]
    codes = {
        AlertCode(code): {key: " ".join(text.split()) for key, text in texts.items()}
        for code, texts in found["code"].items()
    }
    return Section(
        title=title,
        intro=found.get("intro", ""),
        explanations=tuple(Explanation(code=code, section=title, **texts) for code, texts in codes.items()),
    )
