"""The files of desktops, NAS devices and file systems are known by name. The configuration names others."""

from __future__ import annotations

import pytest

from dcsync.core.system_files import Ignored, is_disposable, is_system_name

#: An example of each name: what is written again, then the places that are never removed.
DISPOSABLE = """
.DS_Store ._admin_users.csv .AppleDouble .AppleDB .AppleDesktop .LSOverride .localized __MACOSX .apdisk .fseventsd
.Spotlight-V100 .metadata_never_index .VolumeIcon.icns .com.apple.timemachine.donotpresent
Thumbs.db THUMBS.DB Thumbs.db:encryptable ehthumbs.db ehthumbs_vista.db Desktop.ini IndexerVolumeGuid WPSettings.dat
.directory .hidden .thumbnails .xdg-volume-info .~lock.admin_users.csv# ~$admin_users.csv
@eaDir @EADIR admin_users.csv@SynoEAStream admin_users.csv@SynoResource .SynologyWorkingDirectory
.@__thumb .@__qini .@__comments .@__desc .@upload_cache .streams @Transcode .wdmc .wdTransfer
.stfolder .stignore .dropbox .dropbox.attr .tmp.drivedownload .tmp.driveupload
"""
PLACES = """
lost+found .zfs .snapshot .snapshots ~snapshot #snapshot @sharesnap @Recently-Snapshot @GMT-2026.11.22-12.00.00
#recycle @Recycle .recycle .Recycle.Bin $RECYCLE.BIN .Trash .Trash-1000 .Trashes .TemporaryItems
.DocumentRevisions-V100 TheVolumeSettingsFolder @sharebin @tmp @upload_cache
.stversions .sync .gvfs .nfs0000000a .fuse_hidden0000000a .smbdelete0001 .goutputstream-ABC123 aquota.user aquota.group
"""
OTHERS = ["admin_users.csv", "_dcsync.json", "SHA256SUMS", "schemas", "README.html", "acme", "latest", "notes.txt", "."]


@pytest.mark.parametrize("name", [*DISPOSABLE.split(), "Icon\r"])
def test_what_a_program_writes_again_may_go_with_its_folder(name: str) -> None:
    assert is_system_name(name)
    assert is_disposable(name)


@pytest.mark.parametrize(
    "name", [*PLACES.split(), "Network Trash Folder", "Temporary Items", "System Volume Information"]
)
def test_recycle_bins_and_snapshots_of_a_file_system_are_never_disposable(name: str) -> None:
    assert is_system_name(name)
    assert not is_disposable(name)


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_not_a_system_file(name: str) -> None:
    assert not is_system_name(name)
    assert not is_disposable(name)


def test_everything_in_a_system_folder_is_ignored() -> None:
    assert Ignored().covers("schemas/@eaDir/admin_users.csv/thumb.jpg")
    assert not Ignored().covers("schemas/admin_users.csv")


@pytest.mark.parametrize(
    ("glob", "covered", "other"),
    [
        ("*.txt", "schemas/notes.TXT", "notes.csv"),
        ("notes", "notes/a/b.csv", "notes.csv"),
        ("schemas/*.bak", "schemas/users.bak", "users.bak"),
    ],
)
def test_the_configuration_names_more_by_name_or_path(glob: str, covered: str, other: str) -> None:
    assert Ignored((glob,)).covers(covered)
    assert not Ignored((glob,)).covers(other)
    assert not Ignored().covers(covered)
