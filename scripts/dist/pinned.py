"""The packages that dcsync needs with some of its extras, as requirements-dev.txt pins them: `… > requirements.txt`."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
#: The extras that the packages contain. `sql` needs nothing that `history` does not.
EXTRAS = ("cluster", "fast", "history", "notify")


def needed(distribution: str, extras: tuple[str, ...]) -> set[str]:
    """Return the names of all packages that this one needs here, from the metadata of the installed packages."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(f"{distribution}[{','.join(extras)}]")]
    while todo:
        requirement = todo.pop()
        for extra in ("", *sorted(requirement.extras)):
            key = (canonicalize_name(requirement.name), extra)
            if key in found:
                continue
            found.add(key)
            below = map(Requirement, requires(requirement.name) or [])
            todo += [each for each in below if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found} - {distribution}


def pinned(names: set[str]) -> str:
    """Return the lines of the pinned set for these packages, with their hashes."""
    text = (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^[A-Za-z0-9].*\n(?:^ .*\n)*", text, re.MULTILINE)
    chosen: dict[str, str] = {canonicalize_name(re.split(r"[=\[ ]", block)[0]): block for block in blocks}
    missing = names - chosen.keys()
    assert not missing, f"requirements-dev.txt does not pin {', '.join(sorted(missing))}"
    return "".join(chosen[name] for name in sorted(names))


if __name__ == "__main__":
    print(pinned(needed("data-connector-mirror", EXTRAS)), end="")
