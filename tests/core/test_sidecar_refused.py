"""A `_dcsync.json` that is not valid is refused, and nothing in it is an error of another kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import sidecar
from dcsync.core.model import Json
from dcsync.core.wire import WireError
from tests.fakes import make_stored
from tests.rigs.sidecars import make_document, parse


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "the sidecar has the format 2, not 1"),
        ({"format": None}, "the sidecar has the format None, not 1"),
        ({"account": None}, "account is not an object"),
        ({"request": []}, "request is not an object"),
        ({"job": "j1"}, "job is not an object"),
        ({"account": {}}, "the sidecar lacks name"),
        ({"account": {"name": 5}}, "the sidecar lacks name"),
        ({"job": {"id": ""}}, "the sidecar lacks id"),
        ({"request": {"description": "x"}}, "the sidecar lacks id"),
        ({"files": None}, "the sidecar has no files"),
        ({"files": {}}, "the sidecar has no files"),
        ({"files": [1]}, "a file is not an object"),
    ],
)
def test_a_sidecar_that_lacks_something_is_refused(changes: dict[str, Json], message: str) -> None:
    with pytest.raises(WireError) as caught:
        parse(make_document(**changes))

    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff"])
def test_what_is_no_sidecar_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        sidecar.parse(body, folder="f")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "a file of the sidecar has no size"),
        ({"size": "8"}, "a file of the sidecar has no size"),
        ({"size": True}, "a file of the sidecar has no size"),
        ({"size": -1}, "a file of the sidecar has no size"),
        ({"size": 1 << 63}, "a file of the sidecar has no size"),
        ({"crc32": "100000000"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": "00000000100000000"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": "-1"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": "xyz"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"how": "guessed"}, "a file of the sidecar has no valid crc32 or origin"),
        ({"crc32": 5}, "the sidecar lacks crc32"),
        ({"how": None}, "a file of the sidecar has no valid crc32 or origin"),
        ({"name": ""}, "the sidecar lacks name"),
        ({"original": None}, "the sidecar lacks original"),
        ({"sha256": 1}, "the sidecar lacks sha256"),
    ],
)
def test_a_file_that_lacks_something_is_refused(changes: dict[str, Json], message: str) -> None:
    with pytest.raises(WireError) as caught:
        sidecar.parse_file({**sidecar.file_json(make_stored()), **changes})

    assert str(caught.value) == message


def test_the_largest_sizes_are_read() -> None:
    largest = (1 << 63) - 1
    stored = sidecar.parse_file({**sidecar.file_json(make_stored()), "size": largest, "packed": largest})

    assert (stored.size, stored.packed) == (largest, largest)
    for odd in (-1, largest + 1, True):
        assert sidecar.parse_file({**sidecar.file_json(make_stored()), "packed": odd}).packed is None
    assert sidecar.parse_file({**sidecar.file_json(make_stored()), "packed": 0}).packed == 0


def test_an_odd_md5_etag_or_compressed_size_is_none() -> None:
    stored = sidecar.parse_file({**sidecar.file_json(make_stored()), "md5": 5, "etag": [], "packed": "7"})

    assert (stored.md5, stored.etag, stored.packed) == (None, None, None)


@given(
    st.sampled_from(["format", "account", "request", "job", "files"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "name", "size", "crc32", "how"]), inner),
        max_leaves=8,
    ),
)
def test_a_sidecar_with_anything_in_it_raises_nothing_but_wire_error(key: str, value: Json) -> None:
    try:
        adopted = parse(make_document(**{key: value}))
    except WireError as error:
        assert str(error)  # noqa: PT017 - either way is right
    else:
        assert adopted.snapshot.folder == "acme/r/2026/11/22/x"
