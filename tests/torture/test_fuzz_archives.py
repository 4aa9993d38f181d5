"""Whatever is in an archive, and whatever an operator writes into the configuration."""

from __future__ import annotations

import random
import resource
import tomllib
from pathlib import Path
from typing import Final

import pytest

from dcsync.config.load import parse as parse_config
from dcsync.errors import ConfigInvalid
from tests.rigs import nasty
from tests.torture.conftest import Figure, pick
from tests.torture.fuzz import Explosion

pytestmark = pytest.mark.timeout(1800)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- archives ---------------------------------------------------------------------------------------------------------


def test_any_archive_writes_only_what_it_should_where_it_should(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """docs/project/faults.md S3, S4, S5: ten thousand malformed ZIPs into one staging."""
    corpus = [body for _, body in nasty.archives()]
    for body in corpus:
        Explosion(memory_path).run(body)
    peak = peak_bytes()
    total = Explosion(memory_path)
    rounds = pick(10_000, 2_000)
    for _ in range(rounds):
        total.run(nasty.mutated(chance, corpus))

    assert total.taken > rounds
    assert total.unreadable > rounds // 10
    assert total.damaged > rounds // 50
    # What is held at a time is a piece of 1 MiB, not a member, and not a bomb.
    assert peak_bytes() - peak < 64 << 20
    figure(
        "malformed ZIPs",
        f"{rounds:,}: {total.unreadable:,} unreadable, {total.taken:,} members taken, {total.damaged:,} damaged, "
        f"{total.refused:,} refused, 0 outside",
    )


def test_a_bomb_costs_what_it_says_and_not_what_it_holds(tmp_path: Path, figure: Figure) -> None:
    """docs/project/faults.md S4: 281 terabytes in a few megabytes are refused at the directory."""
    claimed = 0
    for members in (100, 1000, 10_000, 60_000):
        body = nasty.overlapping(members)
        claimed += members << 20
        explosion = Explosion(tmp_path)
        explosion.run(body)
        assert explosion.taken == 0
        assert explosion.unreadable == (members > 10_000)
    figure("members that share their bytes", f"{claimed >> 30} GiB claimed, 0 bytes written")


# --- the configuration ------------------------------------------------------------------------------------------------


def test_any_configuration_loads_or_is_named_with_its_lines(chance: random.Random, figure: Figure) -> None:
    """Every problem at once, no traceback, no secret and no terminal's command in the words."""
    secret = "canary-literal-secret-90af"
    example = (Path(__file__).parents[2] / "config.example.toml").read_text(encoding="utf-8")
    base = example.replace('client_id = ""', f'client_id = "x"\nclient_secret = "{secret}"')
    assert tomllib.loads(base)
    loaded = refused = 0
    for _ in range(pick(10_000, 300)):
        text = base
        for _ in range(chance.choice((1, 1, 2, 3))):
            text = _edited(chance, text)
        if chance.random() < 0.2:
            text = nasty.scratched(chance, text.encode()).decode("utf-8", "replace")
        try:
            parse_config(text, place=Path("config.toml"))
            loaded += 1
        except ConfigInvalid as error:
            refused += 1
            assert error.mistakes  # noqa: PT017 - one of thousands
            for mistake in error.mistakes:
                assert str(mistake).isprintable(), str(mistake)
                assert secret not in str(mistake)
    assert min(loaded, refused) > 0
    figure(
        "malformed configurations", f"{loaded + refused:,}: {loaded:,} load, {refused:,} reported with what is wrong"
    )


_WORDS: Final = (
    *(
        '""',
        '"x"',
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        "[]",
        "[1]",
        "{}",
        "{a = 1}",
        "2026-11-22",
        "99999999999999999999",
    ),
    *(
        '"15m"',
        '"5 GiB"',
        '"999999999999d"',
        '"-5m"',
        '"../x"',
        '"/"',
        '"\\u0000"',
        '"\\u001b[2J"',
        '"\\u202e"',
        '"env:X"',
    ),
    *('"file:/x"', '"https://u:p@h/?q=s"', '"postgresql://u:p@h/d"', "[[]]", '["*", 5]', '"UTC\\n"', '"Europe/Berlim"'),
)


def _edited(chance: random.Random, text: str) -> str:
    """Change a line: its value, its key, or whether it is there."""
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if "=" in line and not line.startswith("# ")]
    if not places:
        return text
    at = chance.choice(places)
    key, _, _ = lines[at].lstrip("#").partition("=")
    match chance.randrange(6):
        case 0 | 1 | 2:
            lines[at] = f"{key}= {chance.choice(_WORDS)}"
        case 3:
            other = chance.choice(("x", key.strip() + "s", '"\\u001b[2J"', '"a.b"', key.strip()[:-1] or "y"))
            lines[at] = f"{other} = 1"
        case 4:
            del lines[at]
        case _:
            lines.insert(at, chance.choice(("[auth]", "[[account]]", "[x]", "[mirror.root]", lines[at], "= 1", "[")))
    return "\n".join(lines)
