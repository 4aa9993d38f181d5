"""The guides of the documentation. Every installation has them, so that a message can send its reader to one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
#: The wheel has the guides in the package. In a checkout they are in docs/.
_FOLDERS: Final = (_HERE / "guides", _HERE.parents[1] / "docs/guides")


def guide_names() -> list[str]:
    """Return the names of all guides."""
    return sorted(path.stem for path in _folder().glob("*.md"))


def guide(name: str) -> str:
    """Return the text of a guide, in Markdown."""
    return (_folder() / f"{name}.md").read_text(encoding="utf-8")


def _folder() -> Path:
    return next(folder for folder in _FOLDERS if folder.is_dir())
