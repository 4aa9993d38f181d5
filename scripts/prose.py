#!/usr/bin/env python3
"""Count turns of phrase that read as translated, in everything a person reads: `scripts/prose.py [--list] [ROOT]`.

Reads the prose files, the report's template, and of each Python file in dcsync/ the string literals, docstrings and
comments. Exits with 1 when a group has more hits than its limit below. A limit only ever goes down.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

#: Each turn of phrase, and what to write instead.
PHRASES = {
    r"\banew\b": "again, rebuilt",
    r"\bamiss\b": "a problem, damaged",
    r"\bmend(s|ed|ing)?\b": "fix (a cause), repair (data)",
    r"\b(stands?|stood)\b(?! (for|-?in|alone|until|up))": "is, exists, remains",
    r"\bby (itself|themselves)\b": "automatically, on its own",
    r"\b(goes|gone|go|going|went) on\b": "continue, resume",
    r"\b(is|are) none\b": "is not a valid …",
    r"\b(is|are) no (?!longer\b|more than\b)\w+": "is not a …, there is no …",
    r"\bso many\b": "N",
    r"\bhear[sd]? of\b": "is notified, last seen",
    r"\btold (of|from)\b": "reported, distinguished",
    r"\bat work\b": "running",
    r"\bin hand\b": "being processed",
    r"\bbesides?\b": "next to, while … is running, also",
    r"\blook(s|ed)? (what|who|whether|at what)\b": "check",
    r"\bsee(s)? that\b": "make sure",
    r"\bmeanwhile\b": "in the meantime, or nothing",
    r"\banother one\b": "another X, a different X",
    r"\bthe ones? before\b": "the previous X",
    r"\bany more\b": "no longer",
    r"\b(a|no) person\b": "you, an operator",
    r"(?<!T-)\b(somebody|nobody|whoever)\b": "someone, no one, the process that …",
    r"\bspen[dt]s?\b": "use",
    r"\bupstream\b": "at Autodesk",
    r"\bthe server\b": "Autodesk, the API, storage",
    r"\bshout(s|ed)?\b": "alert",
    r"\bholds that\b": "checks that",
    r"\btorn\b": "partially written",
    r"\bset aside\b": "renamed, quarantined",
}
#: The most hits that each group may have.
LIMITS = {"documents": 8, "messages": 0, "comments": 8}
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "config.example.toml",
    "docs/**/*.md",
    "dcsync/**/*.j2",
    "dcsync/explain/*.toml",
)
_RX = re.compile("|".join(f"(?:{phrase})" for phrase in PHRASES), re.IGNORECASE)


def main() -> int:
    """Print the counts, with `--list` each hit, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--list", action="store_true", help="print each hit")
    options = parser.parse_args()
    found: dict[str, list[str]] = {group: [] for group in LIMITS}
    for group, place, text in texts(options.root):
        flat = re.sub(r"\s+", " ", text)
        for hit in _RX.finditer(flat):
            around = flat[max(0, hit.start() - 40) : hit.end() + 40]
            found[group].append(f"{place}: …{around}…")
    status = 0
    for group, hits in found.items():
        if options.list:
            sys.stdout.writelines(f"{hit}\n" for hit in hits)
        over = len(hits) > LIMITS[group]
        sys.stdout.write(f"{group}: {len(hits)} of at most {LIMITS[group]}{'  TOO MANY (--list shows them)' * over}\n")
        status |= over
    return int(status)


def texts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the group, the place and the text of everything that is read."""
    for pattern in DOCUMENTS:
        for path in sorted(root.glob(pattern)):
            for number, paragraph in _paragraphs(path.read_text(encoding="utf-8")):
                yield "documents", f"{path.relative_to(root)}:{number}", paragraph
    for path in sorted((root / "dcsync").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        place = path.relative_to(root)
        tree = ast.parse(source)
        private = _docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield ("comments" if id(node) in private else "messages"), f"{place}:{node.lineno}", node.value
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield "comments", f"{place}:{token.start[0]}", token.string


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    number = 1
    for paragraph in text.split("\n\n"):
        yield number, paragraph
        number += paragraph.count("\n") + 2


def _docstrings(tree: ast.Module) -> set[int]:
    """Return the docstrings that only developers read: all but those of commands, which are their help texts."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
            continue
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        decorators = [ast.dump(each) for each in getattr(node, "decorator_list", [])]
        if not any("command" in each or "group" in each for each in decorators):
            found.add(id(first.value))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
