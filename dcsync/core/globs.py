"""What two globs have in common. Pure."""

from __future__ import annotations

import re
from functools import cache

#: A piece of a glob: a set of characters, or one character.
_PIECE = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)


def overlap(one: str, other: str) -> bool:
    """Say whether a name can match both globs. A set such as `[ab]` counts as any character."""
    first, second = _PIECE.findall(one.casefold()), _PIECE.findall(other.casefold())

    @cache
    def both(left: int, right: int) -> bool:
        """Say whether the rests of the two globs can match the same text."""
        mine, theirs = first[left : left + 1], second[right : right + 1]
        if mine == ["*"]:
            return both(left + 1, right) or (right < len(second) and both(left, right + 1))
        if theirs == ["*"]:
            return both(left, right + 1) or (left < len(first) and both(left + 1, right))
        if not mine or not theirs:
            return mine == theirs
        is_any = "?" in (mine[0], theirs[0]) or len(mine[0]) > 1 or len(theirs[0]) > 1
        return (is_any or mine == theirs) and both(left + 1, right + 1)

    return both(0, 0)
