"""The optional parts of the distribution, and how to install them. Pure."""

from __future__ import annotations

from dcsync import DISTRIBUTION, __version__

#: The file of a release that has this version.
WHEEL = f"{DISTRIBUTION.replace('-', '_')}-{__version__}-py3-none-any.whl"
#: The extras that the packages, the image and the single file lack.
NOT_PACKAGED = frozenset({"load"})


def install_hint(extra: str) -> str:
    """Return what to do when an extra is missing. The distribution is on no index, so the hint names its file."""
    hint = (
        f"install {DISTRIBUTION}[{extra}], as you installed dcsync: pipx install --force './{WHEEL}[{extra}]' with the "
        f"file of the release, or pipx install --force '.[{extra}]' in a checkout"
    )
    if extra in NOT_PACKAGED:
        hint += (
            ". A package, the image or the single file cannot have it: `dcsync explain load` says how to replace them"
        )
    return hint
