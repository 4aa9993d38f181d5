"""Names below the staging: injective, and readable back."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.names import assign_paths
from dcsync.mirror.staged_names import holder_of, staged_leaf


@given(st.lists(st.text(alphabet="aé/", min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_two_names_never_share_a_place_in_the_staging(pair: list[str]) -> None:
    leaves = [staged_leaf(name) for name in pair]

    assert leaves[0] != leaves[1]
    assert all("/" not in leaf and len(leaf.encode()) <= 200 for leaf in leaves)


#: Names that look like what the staging makes of others: `.part`, escapes, hashes of long names.
LONG = "x" * 198
TOO_LONG = LONG[:194] + ".part"
HASH_OF_TOO_LONG = "~" + hashlib.sha256(TOO_LONG.encode()).hexdigest()[:32]
ORIGINALS = st.one_of(
    st.text(alphabet="a./%27Epart~", max_size=12),
    st.sampled_from(["a", "a.part", "a.part.part", "a.part%7E", "a.PART", "s/a", "S/a", "s/a.part", "s%2Fa", ".part"]),
    st.sampled_from([LONG, LONG + ".part", LONG[:190] + "/a.csv", TOO_LONG, HASH_OF_TOO_LONG]),
)


@given(st.lists(ORIGINALS, max_size=6), st.lists(ORIGINALS, max_size=6))
@example([TOO_LONG, HASH_OF_TOO_LONG], [])
@example(["s/a"], ["S/a"])
@example(["a", "a.PART"], [])
def test_no_name_shares_its_place_with_another_or_with_one_that_is_on_its_way(
    listed: list[str], further: list[str]
) -> None:
    paths = set(assign_paths(listed, further).values())

    leaves = {staged_leaf(path).casefold() for path in paths}

    assert len(leaves) == len(paths)
    assert leaves.isdisjoint({leaf + ".part" for leaf in leaves})
    assert all("/" not in leaf and len(leaf.encode()) <= 200 for leaf in leaves)


@pytest.mark.parametrize(
    ("leaf", "holder"),
    [
        ("job", ("job", 0)),
        ("job%7E12", ("job", 12)),
        ("job%7E12%7Eabc", ("job", 12)),
        ("latest.x%7Eh3", ("latest.x", 0)),
    ],
)
def test_a_name_in_the_staging_tells_its_job_and_holder(leaf: str, holder: tuple[str, int]) -> None:
    assert holder_of(leaf) == holder
