"""`dcsync explain`: what a code of an alert or error means."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from dcsync.core.alerts import AlertCode
    from dcsync.explain import Explanation

_WIDTH = 80


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from dcsync.core.alerts import AlertCode
    from dcsync.explain import guide_names

    codes = [code.value for code in AlertCode if code.startswith(incomplete.upper())]
    return codes + [name for name in guide_names() if name.startswith(incomplete.lower() or "-")]


@click.command("explain", epilog=exit_statuses())
@click.argument("code", required=False, shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(code: str | None, as_json: bool) -> int:
    """Explain a code, such as L-LATE: what it means, what dcsync does, and what you do.

    CODE can also be the name of a guide of the documentation, such as network. Without CODE, list all codes and guides.
    """
    from dcsync.cli.output import print_json
    from dcsync.explain import explanation, guide, guide_names, sections

    if code is None:
        if as_json:
            print_json({"codes": [each.json() for section in sections() for each in section.explanations]})
        else:
            click.echo(_listing())
        return 0
    if code.lower() in guide_names():
        click.echo(guide(code.lower()), nl=False)
        return 0
    found = explanation(_code(code))
    if as_json:
        print_json(found.json())
    else:
        click.echo(_text(found))
    return 0


def _code(text: str) -> AlertCode:
    """Return the code that the user means. The case does not matter."""
    from dcsync.core.alerts import AlertCode
    from dcsync.explain import guide_names

    try:
        return AlertCode(text.upper())
    except ValueError:
        known = {name.upper(): name for name in [*(code.value for code in AlertCode), *guide_names()]}
        close = get_close_matches(text.upper(), known, n=1)
        hint = f"Did you mean {known[close[0]]}?" if close else "`dcsync explain` lists all codes and guides."
        raise click.UsageError(f"'{text}' is neither a code nor a guide of dcsync. {hint}") from None


def _listing() -> str:
    from dcsync.explain import guide, guide_names, sections

    formatter = click.HelpFormatter(width=_WIDTH)
    for section in sections():
        with formatter.section(section.title):
            formatter.write_dl([(each.code.value, each.summary) for each in section.explanations])
    with formatter.section("Guides"):
        formatter.write_dl([(name, guide(name).partition("\n")[0].removeprefix("# ")) for name in guide_names()])
    return formatter.getvalue().strip()


def _text(found: Explanation) -> str:
    kind = found.kind
    parts = [f"{found.code} ({kind.severity}, exit status {int(kind.exit_status)})"]
    for title, text in (
        ("What it means", found.meaning),
        ("What dcsync does", found.response),
        ("When it is resolved", found.resolved),
        ("What you do", found.advice),
    ):
        body = textwrap.fill(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
        parts.append(f"{title}\n{textwrap.indent(body, '  ')}")
    return "\n\n".join(parts)
