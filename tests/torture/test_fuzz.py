"""Whatever the other side sends: names, listings and JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from dcsync import log
from dcsync.auth.endpoint import _parse_response, _Response
from dcsync.core import names, sidecar, wire
from dcsync.core.names import clash_key
from dcsync.core.reasons import reason
from dcsync.core.snapshot import Record, parse_record
from dcsync.core.wire import WireError
from dcsync.errors import AuthError, LoginRequired
from dcsync.sandbox.views import job_json, request_json
from dcsync.sandbox.world import World
from tests.rigs import nasty
from tests.rigs.mirror import add_extract, mirroring, tables
from tests.torture.conftest import Figure, pick
from tests.torture.fuzz import Explosion

pytestmark = pytest.mark.timeout(1800)
#: What a name on the disk must not hold (docs/project/design.md, Names).
FORBIDDEN: Final = frozenset('/\\<>:"|?*\0')
BATCH: Final = 500


@contextmanager
def logged(form: str) -> Iterator[io.StringIO]:
    """Give what the log writes in a form, and put everything back."""
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    stream = io.StringIO()
    log.configure("debug", form, stream=stream)
    try:
        yield stream
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)


def assert_one_line_each(text: str, events: int) -> None:
    """docs/project/faults.md S10: one event is one line, with nothing in it that a terminal obeys."""
    assert text.count("\n") == events
    assert text.endswith("\n")
    bad = {sign for sign in set(text) - {"\n"} if unicodedata.category(sign) in {"Cc", "Zl", "Zp"} or sign == "\u202e"}
    assert not bad, bad


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_million_names_stay_inside_and_apart(tmp_path: Path, chance: random.Random, figure: Figure) -> None:
    """docs/project/faults.md S1, S2."""
    wanted, seen, made = pick(1_000_000, 20_000), 0, 0
    before: list[str] = []
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while seen < wanted:
            originals = {nasty.name(chance, before) for _ in range(BATCH)}
            seen += BATCH
            assigned = names.assign(originals)
            assert assigned.keys() == originals
            keys = {clash_key(name) for name in assigned.values()}
            assert len(keys) == len(originals)
            for name in assigned.values():
                assert 0 < len(name.encode()) <= names.MAX_BYTES
                assert not FORBIDDEN & set(name)
                assert name[-1] not in ". "
            assert not keys & {"_dcsync.json", "sha256sums"}
            assert not any(key.startswith(".dcsync") for key in keys)
            # Also as paths of an archive, each made of safe components.
            extra = {nasty.name(chance, before) for _ in range(20)}
            paths = names.assign_paths(list(originals)[:20], extra)
            for path in paths.values():
                assert all(part not in {"", ".", ".."} and not FORBIDDEN & set(part) for part in path.split("/"))
            if chance.random() < 0.05:
                made += _make_all(root, tmp_path, list(assigned.values())[:60])
    finally:
        os.close(root)
    assert made > 0
    figure("hostile names", f"{seen:,}, 0 outside, 0 clashes, {made:,} of them made on the disk")


def _make_all(root: int, folder: Path, made: list[str]) -> int:
    """Make files of these names and look where they are: exactly there, all of them."""
    for name in made:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600, dir_fd=root))
    assert sorted(os.listdir(root)) == sorted(made)
    assert {path.parent for path in folder.rglob("*")} == {folder}
    for name in made:
        os.unlink(name, dir_fd=root)
    return len(made)


@pytest.mark.parametrize("form", ["console", "json"])
def test_no_name_writes_its_own_line_into_the_log(chance: random.Random, figure: Figure, form: str) -> None:
    """docs/project/faults.md S10."""
    count = pick(20_000, 1_000)
    before: list[str] = []
    with logged(form) as stream:
        said = structlog.get_logger("fuzz")
        for number in range(count):
            text = nasty.name(chance, before)
            match number % 4:
                case 0:
                    said.warning("a file could not be fetched", file=text, error=text, folder=[text])
                case 1:
                    said.info("an event", reasons={text: text})
                case 2:
                    logging.getLogger("library").warning("it said %s", text)
                case _:
                    said.warning(names.printable(text, 100), path=Path("/srv") / text.replace("\0", ""))
    assert_one_line_each(stream.getvalue(), count)
    figure(f"log lines with hostile names, {form}", f"{count:,}, one line each")


def read_record(value: Any) -> Record:
    return parse_record(value, folder="acme/r/2026/11/22/x")


def good_documents() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """Return an example of each answer of the API with what reads it."""
    world = World(seed=3)
    request = world.add_request("Nightly", schedule="WEEK")
    for _ in range(3):
        world.add_job(request, files=tables(2))
    jobs = [job_json(world, job) for job in world.jobs.values()]
    requests = [request_json(world, entry) for entry in world.requests.values()]
    listing = [{"name": f"t{n}.csv", "createdAt": "2026-11-22T12:00:00.000Z", "size": n} for n in range(6)]
    page = {"pagination": {"limit": 20, "offset": 0, "totalResults": 3}, "results": jobs}

    def each(parse: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda value: wire.parse_each(wire.parse_page(value).results, parse)

    return {
        "jobs": (page, each(wire.parse_job)),
        "requests": ({**page, "results": requests}, each(wire.parse_request)),
        "job": (jobs[0], wire.parse_job),
        "request": (requests[0], wire.parse_request),
        "listing": (listing, wire.parse_listing),
        "signed": (
            {"name": "a.csv", "size": 5, "signedUrl": "https://h/x"},
            lambda value: wire.parse_signed(value, "a"),
        ),
        "hubs": ({"data": [{"id": "b.1", "attributes": {"name": "n", "region": "EMEA"}}]}, wire.parse_hubs),
        "record": ({"job": jobs[0], "request": requests[0]}, read_record),
        "file": (
            {"name": "a", "original": "a", "size": 1, "sha256": "0" * 64, "crc32": "00000000", "how": "fetched"},
            sidecar.parse_file,
        ),
    }


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_any_answer_is_read_or_refused_in_our_own_words(chance: random.Random, figure: Figure) -> None:
    """docs/project/faults.md A9, A10, C5."""
    documents = good_documents()
    for document, parse in documents.values():
        parsed = wire.decode_json(json.dumps(document).encode())
        if parse is not read_record:
            parse(parsed)
    read = refused = 0
    count = pick(10_000, 400)
    for document, parse in documents.values():
        for _ in range(count):
            body = nasty.body(chance, document)
            try:
                parse(wire.decode_json(body))
                read += 1
            except WireError as error:
                refused += 1
                assert str(error).isprintable()  # noqa: PT017 - one of thousands
                assert len(str(error)) < 400  # noqa: PT017 - the same
            words = reason({"content-type": chance.choice(("", "text/html", "application/json"))}, body)
            assert words.isprintable()
            assert len(words) <= 301
    assert min(read, refused) > count // 4
    figure("responses of the API, malformed", f"{read + refused:,}: {read:,} read, {refused:,} refused, no other error")


def test_any_listing_is_mirrored_as_safe_names_or_refused(chance: random.Random, figure: Figure) -> None:
    """docs/project/faults.md A10, A14, S1: what is taken can be written."""
    taken = refused = 0
    before: list[str] = []
    for _ in range(pick(10_000, 400)):
        rows: list[Any] = [
            {"name": nasty.name(chance, before), "size": chance.choice((5, "5", 0, 1 << 40, " 7 "))}
            for _ in range(chance.randrange(30))
        ]
        if chance.random() < 0.5:
            rows = nasty.bent(chance, rows)
        body = json.dumps(rows).encode()
        try:
            files = wire.parse_listing(wire.decode_json(body))
        except WireError as error:
            refused += 1
            assert str(error).isprintable()  # noqa: PT017 - one of thousands
            continue
        taken += 1
        assert all(file.name and 0 <= file.size <= wire.MAX_FILE_SIZE for file in files)
        assigned = names.assign(file.name for file in files)
        assert len({clash_key(name) for name in assigned.values()}) == len(files)
    assert min(taken, refused) > 0
    figure("data listings, malformed", f"{taken + refused:,}: {taken:,} read, {refused:,} refused")


def test_any_answer_of_the_token_endpoint_is_tokens_or_a_definite_word(chance: random.Random, figure: Figure) -> None:
    """docs/project/faults.md T8, T9, T10: only `invalid_grant` asks for a login, whatever else comes."""
    good = {"access_token": "a" * 40, "refresh_token": "r" * 40, "expires_in": 3599, "token_type": "Bearer"}
    granted = refused = logins = 0
    for _ in range(pick(10_000, 400)):
        status = chance.choice((200, 200, 200, 400, 401, 403, 404, 429, 500, 502, 503))
        document = good if status == 200 else {"error": chance.choice(("invalid_grant", "invalid_client", "x"))}
        if chance.random() < 0.3:
            document = {**document, "expires_in": nasty.value(chance)}
        body = nasty.body(chance, document)
        try:
            answer = _parse_response(
                _Response(
                    status=status,
                    headers={"retry-after": chance.choice(("", "5", "x", "-1"))},
                    body=body,
                    words=reason({}, body),
                )
            )
        except LoginRequired:
            logins += 1
            assert b"invalid_grant" in body
            assert status in {400, 401, 403}
        except AuthError as error:
            refused += 1
            assert error.message.isprintable()  # noqa: PT017 - the same
        else:
            granted += 1
            assert 60 <= answer.lifetime_s <= 3600
            assert answer.access_token
    assert min(granted, refused, logins) > 0
    figure("token responses, malformed", f"{granted + refused + logins:,}: {logins:,} of them ask for a login")


async def test_a_job_with_any_listing_stops_no_other(memory_path: Path, chance: random.Random, figure: Figure) -> None:
    """docs/project/faults.md A10 through a whole run: the job beside it is mirrored, and nothing half is seen."""
    before: list[str] = []
    good: list[str] = []
    codes: set[str] = set()
    for batch in range(pick(15, 1)):
        folder = memory_path / str(batch)
        folder.mkdir()
        async with mirroring(folder) as mirror:
            for number in range(15):
                rows = [{"name": nasty.name(chance, before), "size": chance.randrange(50)} for _ in range(3)]
                # Without any table, every listing would be refused for that alone.
                rows.append({"name": f"{nasty.name(chance, before)}.csv", "size": chance.randrange(50)})
                bad = add_extract(mirror, tables(1, seed=number), days_ago=0.5, job_id=f"bad-{number}")
                mirror.world.jobs[bad].listing = nasty.bent(chance, nasty.bent(chance, rows))
                good.append(add_extract(mirror, tables(2, seed=number), job_id=f"good-{number}"))
                outcome = await mirror.sync_one()
                codes |= {failed.code for failed in outcome.failed}
                assert outcome.error is None
                assert good[-1] in {published.job for published in outcome.published}
                mirror.assert_identical(good[-1])
    # F-SPACE: a size that no disk has room for.
    assert codes <= {"L-LISTING", "L-EMPTY", "A-MISSING", "F-SIZE", "F-SPACE", "S-STORAGE"}
    figure("runs with a malformed listing next to a valid one", f"{len(good)}, the valid one mirrored in each")


# --- the checks ------------------------------------------------------------------------------------------------


def test_the_checks_can_fail() -> None:
    """A line that a name broke in two, or a control that came through, is noticed."""
    with pytest.raises(AssertionError):
        assert_one_line_each("a\nb\n", 1)
    with pytest.raises(AssertionError):
        assert_one_line_each("a\x1b[2J\n", 1)
    with tempfile.TemporaryDirectory() as folder:
        explosion = Explosion(Path(folder))
        (Path(folder) / "mirror/escaped").write_bytes(b"")
        with pytest.raises(AssertionError):
            explosion.run(nasty.overlapping(1))
