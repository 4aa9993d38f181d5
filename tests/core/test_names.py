"""Names become one safe path component each, and no two become the same."""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import names

#: Any code point, lone surrogates too, and often those that matter.
TRICKY = st.sampled_from(
    [*'%./\\:*?"<>| ~aAsSkK25Ff_', "\0", "\n", "\x7f", "\x9b", "\u202e", "\u200b", "\ufeff", "\u2028"]
)
WILD = st.text(st.one_of(st.characters(codec=None), TRICKY), max_size=60)
OWN_OR_DEVICE = st.sampled_from(
    ["_dcsync.json", "SHA256SUMS", ".dcsync", ".dcsync-x", "CON", "nul.txt", "lpt9", "..", ""]
)
WORDS = st.sampled_from(["a", "A", "a~", ".csv", ".CSV", "é", "e\u0301", "ß", "ss", "\ufb01", "fi", "\uff21"])
CLASHING = st.lists(WORDS, max_size=4).map("".join)
ORIGINALS = st.one_of(WILD, OWN_OR_DEVICE, CLASHING, st.text(min_size=150, max_size=260))

FORBIDDEN = set('/\\<>:"|?*')
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def assert_safe(name: str) -> None:
    assert 0 < len(name.encode()) <= 200
    assert not FORBIDDEN & set(name)
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in name}
    assert name[-1] not in ". "
    assert name.lower() not in {"_dcsync.json", "sha256sums"}
    assert not name.lower().startswith(".dcsync")
    assert DEVICE.fullmatch(name) is None


@given(ORIGINALS)
def test_any_name_becomes_one_component_that_is_safe_everywhere(original: str) -> None:
    assert_safe(names.component(original))


@given(ORIGINALS)
def test_a_name_that_is_not_cut_can_be_read_back_from_its_component(original: str) -> None:
    name = names.component(original)

    if "~" not in name:  # cut, or too close to being so
        decoded = re.sub(rb"%[0-9A-F]{2}", lambda match: unquote_to_bytes(match[0]), name.encode())
        assert decoded == (original.encode("utf-8", "surrogatepass") or b"\xff")


@given(st.text(st.one_of(st.characters(codec=None), TRICKY), max_size=12), st.text(TRICKY, max_size=12))
def test_two_names_have_the_same_component_only_if_they_are_the_same(one: str, other: str) -> None:
    assert (names.component(one) == names.component(other)) == (one == other)


@given(st.text(st.sampled_from("%25Ff./"), max_size=5), st.text(st.sampled_from("%25Ff./"), max_size=5))
def test_no_escape_can_be_forged(one: str, other: str) -> None:
    assert (names.component(one) == names.component(other)) == (one == other)


@given(st.text(min_size=201, max_size=300), st.integers(0, 200))
def test_two_long_names_that_differ_in_one_place_stay_apart(original: str, index: int) -> None:
    changed = original[:index] + ("x" if original[index] != "x" else "y") + original[index + 1 :]

    assert names.component(original) != names.component(changed)


@pytest.mark.parametrize(
    "name",
    [
        "admin_users.csv",
        "50% done.csv",
        "100%",
        "%G0.csv",
        "Übersicht – Größe.csv",
        "データ.csv",
        "a b.csv",
        ".hidden",
        "con_tent.csv",
        "console",
        "com10",
        "lpt.csv",
        "SHA256SUMS.csv",
        "a~b.csv",
        "x" * 200,
        "é" * 100,
    ],
)
def test_a_safe_name_stays_as_it_is(name: str) -> None:
    assert names.component(name) == name


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("", "%FF"),
        (".", "%2E"),
        ("..", ".%2E"),
        ("../etc/passwd", "..%2Fetc%2Fpasswd"),
        ("a\\b", "a%5Cb"),
        ("C:", "C%3A"),
        ('<>:"|?*', "%3C%3E%3A%22%7C%3F%2A"),
        ("a\0b\n\x7f\x85", "a%00b%0A%7F%C2%85"),
        ("\u202egpj.exe", "%E2%80%AEgpj.exe"),
        ("a\u200bb\ufeff", "a%E2%80%8Bb%EF%BB%BF"),
        ("\u2028\u2029", "%E2%80%A8%E2%80%A9"),
        ("a\ufe0f\u3164", "a%EF%B8%8F%E3%85%A4"),
        ("\ud800", "%ED%A0%80"),
        ("50%41.csv", "50%2541.csv"),
        ("%ff", "%25ff"),
        ("a.csv.", "a.csv%2E"),
        ("a ", "a%20"),
        ("_dcsync.json", "%5Fdcsync.json"),
        ("_DCSYNC.JSON", "%5FDCSYNC.JSON"),
        ("Sha256Sums", "%53ha256Sums"),
        (".dcsync", "%2Edcsync"),
        (".DCsync-staging", "%2EDCsync-staging"),
        ("CON", "%43ON"),
        ("nul.tar.gz", "%6Eul.tar.gz"),
        ("Aux .txt", "%41ux .txt"),
        ("prn. ", "%70rn.%20"),
        ("com0", "%63om0"),
        ("LPT¹.csv", "%4CPT¹.csv"),
        ("conin$", "%63onin$"),
    ],
)
def test_what_is_not_safe_is_escaped_as_its_utf8_bytes(original: str, expected: str) -> None:
    assert names.component(original) == expected


@pytest.mark.parametrize(
    ("original", "kept", "extension"),
    [
        ("x" * 250 + ".csv", "x" * 187, ".csv"),
        ("x" * 201, "x" * 191, ""),
        ("é" * 101, "é" * 95, ""),
        ("x" * 250 + "." + "y" * 16, "x" * 174, "." + "y" * 16),
        ("x" * 250 + "." + "y" * 17, "x" * 191, ""),
        ("x" * 100 + "." + "y" * 150, "x" * 100 + "." + "y" * 90, ""),
        ("." + "y" * 250, "." + "y" * 190, ""),
        ("x" * 180 + "." * 30 + "x" * 20, "x" * 180, ""),
    ],
)
def test_a_name_over_200_bytes_is_cut_before_its_extension(original: str, kept: str, extension: str) -> None:
    digest = hashlib.sha256(original.encode()).hexdigest()[:8]

    assert names.component(original) == f"{kept}~{digest}{extension}"


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.csv", "a.csv"), ("é", "e\u0301"), ("straße", "STRASSE"), ("ﬁn", "fin"), ("ａ", "a"), ("K", "k"), ("Σς", "σσ")],
)
def test_names_that_some_file_system_takes_for_one_share_a_key(one: str, other: str) -> None:
    assert names.clash_key(one) == names.clash_key(other)


def test_names_that_differ_have_different_keys() -> None:
    assert names.clash_key("e.csv") != names.clash_key("é.csv")


@given(st.lists(ORIGINALS, max_size=12))
def test_assigned_names_are_complete_and_safe_and_differ_on_any_file_system(originals: list[str]) -> None:
    assigned = names.assign(originals)

    assert assigned.keys() == set(originals)
    assert len({names.clash_key(name) for name in assigned.values()}) == len(assigned)
    for name in assigned.values():
        assert_safe(name)


@given(st.lists(ORIGINALS, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_names_come_changes_nothing(originals: list[str], chance: random.Random) -> None:
    shuffled = [*originals, *originals[:3]]
    chance.shuffle(shuffled)

    assert names.assign(shuffled) == names.assign(originals)


@given(st.lists(ORIGINALS, max_size=6))
def test_a_name_that_clashes_with_none_gets_its_own_component(originals: list[str]) -> None:
    keys = [names.clash_key(names.component(original)) for original in set(originals)]

    for original, name in names.assign(originals).items():
        if keys.count(names.clash_key(names.component(original))) == 1 and "~" not in "".join(keys):
            assert name == names.component(original)


def test_the_first_of_a_clash_keeps_its_name_and_the_other_gets_a_hash() -> None:
    digest = hashlib.sha256(b"users.csv").hexdigest()[:8]

    assert names.assign(["users.csv", "Users.csv"]) == {"Users.csv": "Users.csv", "users.csv": f"users~{digest}.csv"}


def test_a_clash_with_a_hashed_name_takes_another_hash() -> None:
    planted = f"Users~{hashlib.sha256(b'users.csv').hexdigest()[:8]}.csv"
    another = hashlib.sha256(b"1/users.csv").hexdigest()[:8]

    assigned = names.assign(["Users.csv", "users.csv", planted])

    assert assigned == {"Users.csv": "Users.csv", planted: planted, "users.csv": f"users~{another}.csv"}


def test_however_many_hashes_are_planted_there_is_another() -> None:
    planted = [f"A~{hashlib.sha256(b'a.csv').hexdigest()[:n]}.csv" for n in range(8, 72, 8)]
    planted += [f"A~{hashlib.sha256(f'{n}/a.csv'.encode()).hexdigest()[:8]}.csv" for n in range(1, 20)]

    assigned = names.assign(["A.csv", "a.csv", *planted])

    assert len({names.clash_key(name) for name in assigned.values()}) == len(assigned) == 2 + len(planted)


def test_a_member_never_gets_the_name_of_a_listed_file() -> None:
    planted = f"a~{hashlib.sha256(b'a.csv').hexdigest()[:8]}.csv"

    paths = names.assign_paths(["A.csv", planted], ["a.csv"])

    assert len(set(paths.values())) == 3


@pytest.mark.parametrize("name", ["ſHA256SUMS", "_dcſync.json", ".dcſync"])
def test_our_own_names_are_guarded_as_a_folding_disk_sees_them(name: str) -> None:
    assert names.component(name).startswith("%")


class TestPaths:
    def test_a_member_of_the_archive_keeps_its_folders_each_made_safe(self) -> None:
        paths = names.assign_paths(["a/b.csv"], ["schemas/a.json", "x:/CON/..y.", "SHA256SUMS"])

        assert paths == {
            "a/b.csv": "a%2Fb.csv",  # a listed name is one component
            "schemas/a.json": "schemas/a.json",
            "x:/CON/..y.": "x%3A/%43ON/..y%2E",
            "SHA256SUMS": "%53HA256SUMS",
        }

    @pytest.mark.parametrize("member", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "1/2/3/4/5/6/7/8/9"])
    def test_a_member_whose_path_leads_elsewhere_or_is_too_deep_is_left_out(self, member: str) -> None:
        assert names.assign_paths([], [member, "1/2/3/4/5/6/7/8"]) == {"1/2/3/4/5/6/7/8": "1/2/3/4/5/6/7/8"}

    @pytest.mark.parametrize(
        ("listed", "members", "moved", "path"),
        [
            (["a.csv"], ["A.csv"], "A.csv", "A~{}.csv"),  # a file of that name
            (["a"], ["A/b"], "A/b", "A%2Fb~{}"),  # a file where its folder would be
            ([], ["a/b", "A"], "a/b", "a%2Fb~{}"),
            ([], ["A/b", "a"], "a", "a~{}"),  # a folder where it would be
        ],
    )
    def test_what_would_clash_goes_beside_under_a_hash(
        self, listed: list[str], members: list[str], moved: str, path: str
    ) -> None:
        paths = names.assign_paths(listed, members)

        assert paths[moved] == path.format(hashlib.sha256(moved.encode()).hexdigest()[:8])
        assert {name: kept for name, kept in paths.items() if name != moved} == {
            name: name for name in (*listed, *members) if name != moved
        }

    @given(st.lists(ORIGINALS, max_size=5), st.lists(st.lists(ORIGINALS, max_size=3).map("/".join), max_size=6))
    def test_any_paths_are_safe_and_no_file_stands_where_another_or_a_folder_does(
        self, listed: list[str], members: list[str]
    ) -> None:
        paths = names.assign_paths(listed, members)

        assert names.assign(listed).items() <= paths.items()
        keys = [names.clash_key(path) for path in paths.values()]
        assert len(set(keys)) == len(keys)
        assert not any(other.startswith(f"{key}/") for key in keys for other in keys)
        for path in paths.values():
            for part in path.split("/"):
                assert_safe(part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Größe", "Gro e"), ("Ångström", "Angstrom"), ("データ x", "    x"), ("ﬁn 1", "fin 1"), ("", "")],
)
def test_folding_to_ascii_keeps_letters_and_blanks_the_rest(text: str, expected: str) -> None:
    assert names.ascii_fold(text) == expected


@given(st.text())
def test_folded_text_is_ascii(text: str) -> None:
    assert names.ascii_fold(text).isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain – text", "plain – text"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202e\ud800", "\\u202e\\ud800"),
        ("12345678", "12345678"),
        ("123456789", "12345678…"),
    ],
)
def test_a_message_shows_text_on_one_line_and_cut_short(text: str, expected: str) -> None:
    assert names.printable(text, 16 if "a" in text or "\u202e" in text else 8) == expected


def test_a_message_shows_80_characters_of_a_text_by_default() -> None:
    assert names.printable("x" * 80) == "x" * 80
    assert names.printable("x" * 81) == "x" * 80 + "…"


@given(WILD)
def test_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = names.printable(text)

    assert shown.isprintable()
    assert shown.encode().decode() == shown  # no lone surrogate is left


DEVICES = [
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *("com0", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "com¹", "com²", "com³"),
    *("lpt0", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9", "lpt¹", "lpt²", "lpt³"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ending", ["", ".csv", " .csv"])
def test_each_device_name_of_windows_is_escaped_with_any_ending(device: str, ending: str) -> None:
    assert names.component(device + ending) == f"%{ord(device[0]):02X}{device[1:]}{ending}"
    assert names.component(f"{device}x{ending}") == f"{device}x{ending}"


@pytest.mark.parametrize("character", [*'/\\<>:"|?*'])
def test_each_character_that_some_file_system_forbids_is_escaped(character: str) -> None:
    assert names.component(f"a{character}b") == f"a%{ord(character):02X}b"


#: The first and last of each run of invisible code points, written by hand.
INVISIBLE = [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0]
INVISIBLE += [0xFE00, 0xFE0F, 0xE0100, 0xE01EF]
VISIBLE = [0x034E, 0x0350, 0x115E, 0x1161, 0x17B3, 0x17B6, 0x180A, 0x3163, 0x3165, 0xFDFF, 0xFE10, 0xFF9F, 0xFFA1]
VISIBLE += [0xE00FF, 0xE01F0]


@pytest.mark.parametrize("point", INVISIBLE)
def test_each_invisible_code_point_is_escaped(point: int) -> None:
    assert names.component(f"a{chr(point)}b") == f"a{''.join(f'%{byte:02X}' for byte in chr(point).encode())}b"


@pytest.mark.parametrize("point", VISIBLE)
def test_their_visible_neighbours_stay(point: int) -> None:
    assert names.component(f"a{chr(point)}b") == f"a{chr(point)}b"


def test_the_limits_of_a_name_are_200_bytes_and_eight_folders() -> None:
    assert (names.MAX_BYTES, names.MAX_DEPTH) == (200, 8)
    assert names.component("x" * 200) == "x" * 200
    assert "~" in names.component("x" * 201)
