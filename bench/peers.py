"""Alternatives to dcsync: curl, aria2, rclone, wget, and careful scripts around them.

All do the same work as dcsync: after the download, `sha256sum` hashes every file and `sync` fsyncs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: A function that runs one alternative in an empty folder.
Peer = Callable[[Path], None]

HASH = "sha256sum -- * > SHA256SUMS"
#: coreutils' fsync of each file.
SYNC = "sync -- *"

#: One file of an extract: get a signed URL, wait after a 429, then download. $1 is the URL to sign, $2 the name.
_ONE = """
while :; do
    status=$(curl -sS -o "$2.signed" -D "$2.headers" -w '%{http_code}' -H "Authorization: Bearer $TOKEN" "$1/$2")
    case $status in
        200) break ;;
        429) sleep "$(sed -n 's/^[Rr]etry-[Aa]fter: *\\([0-9]*\\).*/\\1/p' "$2.headers")" ;;
        *) echo "$2: $status" >&2; exit 1 ;;
    esac
done
curl -sS --fail -o "$2" "$(jq -r .signedUrl "$2.signed")"
rm "$2.signed" "$2.headers"
"""
#: The names of the data listing, without the ZIP.
_NAMES = """curl -sS --fail -H "Authorization: Bearer $TOKEN" "$JOB/data-listing" |
    jq -r '.[].name | select(endswith(".zip") | not)'"""
#: All signed URLs in one batch of transfers.
_SIGN_ALL = f"""{_NAMES} | while read -r name; do
    printf 'url = "%s/data/%s"\\noutput = "%s.signed"\\n' "$JOB" "$name" "$name"; done > signing
curl -sS --no-progress-meter --fail-early -Z --parallel-max "$AT_ONCE" -H "Authorization: Bearer $TOKEN" -K signing
rm signing"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """An extract on the API: the job's URL, the access token, and the number of parallel downloads."""

    job_url: str
    token: str
    at_once: int

    def environ(self) -> dict[str, str]:
        """Return the environment for the scripts."""
        return {**os.environ, "JOB": self.job_url, "TOKEN": self.token, "AT_ONCE": str(self.at_once)}


def missing_programs() -> list[str]:
    """Return the programs that the comparison needs and that are not installed."""
    return [name for name in ("curl", "jq", "aria2c", "rclone", "wget", "unzip") if shutil.which(name) is None]


def one_file(url: str, authority: Path) -> dict[str, Peer]:
    """Return the alternatives for one large file by name."""
    name = url.rsplit("/", 1)[1]
    commands = {
        "curl": f"curl -sS --fail --cacert {authority} -o {name} {url}",
        "aria2c -x4": (f"aria2c -q -x4 -s4 -k1M --file-allocation=falloc --ca-certificate={authority} -o {name} {url}"),
        "wget": f"wget -q --ca-certificate={authority} -O {name} {url}",
        "rclone": f"rclone --ca-cert {authority} --config /dev/null copyurl {url} {name}",
    }
    peers = {f"{peer}, sha256sum, sync": _shell(f"{command}\n{HASH}\n{SYNC}") for peer, command in commands.items()}
    return {**peers, "curl, sync (no hash)": _shell(f"{commands['curl']}\n{SYNC}")}


def through_many(url: str, authority: Path) -> dict[str, Peer]:
    """Return the alternatives that fetch a file or a ZIP through several connections, by name."""
    name = url.rsplit("/", 1)[1]
    fetch = f"aria2c -q -x8 -s8 -k1M --file-allocation=falloc --ca-certificate={authority} -o {name} {url}"
    peers = {"aria2c -x8, sha256sum, sync": _shell(f"{fetch}\n{HASH}\n{SYNC}")}
    if name.endswith(".zip"):
        peers["aria2c -x8, unzip, sha256sum, sync"] = _shell(f"{fetch}\nunzip -q {name}\nrm {name}\n{HASH}\n{SYNC}")
    return peers


def curl(url: str, *, stop: int) -> Peer:
    """Return curl for the first bytes of a file, through one connection."""
    return _shell(f"curl -sS --fail -r 0-{stop - 1} -o part {url}")


def many_files(extract: Extract) -> dict[str, Peer]:
    """Return the alternatives for all files of an extract by name."""
    environ = {**extract.environ(), "ONE": _ONE}
    urls = 'jq -r \'"url = \\"\\(.signedUrl)\\"\\noutput = \\"\\(.name)\\""\' -- *.signed'
    commands = {
        "script (curl, jq, xargs)": f'{_NAMES} | xargs -n 1 -P "$AT_ONCE" sh -c "$ONE" - "$JOB/data"',
        "curl -Z in two batches": f"""{_SIGN_ALL}
{urls} > fetching
curl -sS --no-progress-meter --fail-early -Z --parallel-max "$AT_ONCE" -K fetching
rm fetching -- *.signed""",
        "curl -Z, aria2c": f"""{_SIGN_ALL}
jq -r '"\\(.signedUrl)\\n out=\\(.name)"' -- *.signed > ../fetching
aria2c -q -j "$AT_ONCE" -i ../fetching
rm -- *.signed ../fetching""",
        "curl -Z, rclone": f"""{_SIGN_ALL}
jq -r '"\\(.signedUrl)\\n\\(.name)"' -- *.signed |
    xargs -d '\\n' -n 2 -P "$AT_ONCE" rclone --config /dev/null copyurl
rm -- *.signed""",
        "curl -Z, wget": f"""{_SIGN_ALL}
jq -r '"\\(.signedUrl)\\n\\(.name)"' -- *.signed | xargs -d '\\n' -n 2 -P "$AT_ONCE" sh -c 'wget -q -O "$2" "$1"' -
rm -- *.signed""",
    }
    return {peer: _shell(f"{command}\n{HASH}\n{SYNC}", environ) for peer, command in commands.items()}


def _shell(script: str, environ: Mapping[str, str] | None = None) -> Peer:
    def run(folder: Path) -> None:
        subprocess.run(["sh", "-euc", script], cwd=folder, env=environ, check=True)

    return run
