"""Files of other programs: what desktops, NAS devices and file systems put into every folder. Pure.

They are not part of a snapshot and damage nothing. All names are compared without regard to case. Sources: GitHub's
`gitignore` templates for macOS, Windows and Linux, Samba's `veto files` examples, and what Synology's DSM, QNAP's QTS,
TrueNAS and NetApp's ONTAP show in a share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

#: Their programs write them again when they need them.
_DISPOSABLE = (
    # macOS, and netatalk, which serves it
    ".DS_Store",
    "._*",
    ".AppleDouble",
    ".AppleDB",
    ".AppleDesktop",
    ".LSOverride",
    ".localized",
    "Icon\r",
    "__MACOSX",
    ".apdisk",
    ".fseventsd",
    ".Spotlight-V100",
    ".metadata_never_index",
    ".VolumeIcon.icns",
    ".com.apple.*",
    # Windows
    "Thumbs.db",
    "Thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "IndexerVolumeGuid",
    "WPSettings.dat",
    # Linux desktops
    ".directory",
    ".hidden",
    ".thumbnails",
    ".xdg-volume-info",
    ".~lock.*#",
    # Office programs
    "~$*",
    # Synology
    "@eaDir",
    "*@SynoEAStream",
    "*@SynoResource",
    ".SynologyWorkingDirectory",
    # QNAP, Asustor
    ".@__thumb",
    ".@__qini",
    ".@__comments",
    ".@__desc",
    ".@upload_cache",
    ".streams",
    "@Transcode",
    # Western Digital
    ".wdmc",
    ".wdTransfer",
    # Programs that synchronize folders
    ".stfolder",
    ".stignore",
    ".dropbox",
    ".dropbox.attr",
    ".tmp.drivedownload",
    ".tmp.driveupload",
)

#: Places of the file system or the NAS, and files that are still in use: never to be removed here.
_PLACES = (
    "lost+found",
    ".zfs",
    ".snapshot",
    ".snapshots",
    "~snapshot",
    "#snapshot",
    "@sharesnap",
    "@Recently-Snapshot",
    "@GMT-*",
    "#recycle",
    "@Recycle",
    ".recycle",
    ".Recycle.Bin",
    "$RECYCLE.BIN",
    ".Trash",
    ".Trash-*",
    ".Trashes",
    ".TemporaryItems",
    ".DocumentRevisions-V100",
    "Network Trash Folder",
    "Temporary Items",
    "TheVolumeSettingsFolder",
    "System Volume Information",
    "@sharebin",
    "@tmp",
    "@upload_cache",
    ".stversions",
    ".sync",
    ".gvfs",
    ".nfs*",
    ".fuse_hidden*",
    ".smbdelete*",
    ".goutputstream-*",
    "aquota.user",
    "aquota.group",
)


def _pattern(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob.casefold()) for glob in globs))


_DISPOSABLE_PATTERN = _pattern(_DISPOSABLE)
_PATTERN = _pattern((*_DISPOSABLE, *_PLACES))


def is_system_name(name: str) -> bool:
    """Say whether a file or folder of this name belongs to a desktop, a NAS or the file system."""
    return _PATTERN.match(name.casefold()) is not None


def is_disposable(name: str) -> bool:
    """Say whether it may also be removed with its folder: its program writes it again when needed."""
    return _DISPOSABLE_PATTERN.match(name.casefold()) is not None


@dataclass(frozen=True, slots=True)
class Ignored:
    """The extra files that are counted and not reported: those of other programs, and `[verify] ignore`."""

    globs: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Say whether a path is ignored: a file, or anything in a folder, whose name or path matches.

        The globs match the name of the file or of a folder above it, or the whole path.
        """
        names = path.split("/")
        if any(is_system_name(name) for name in names):
            return True
        pattern = _pattern(self.globs)
        return self.globs != () and any(pattern.match(text.casefold()) is not None for text in (*names, path))
