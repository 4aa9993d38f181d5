"""nginx on loopback, which serves the bytes over http and https with a self-signed certificate.

Object storage gives each connection only so much. nginx has two limits for that, and neither is one of the connection:
`limit_rate` begins again with each request, with what a second allows at once, so a client with many small ranges on
one connection is not limited at all. `proxy_download_rate` of a proxy in front has the same second at the start of each
connection, and copies every byte. Here the kernel paces the connections (`SO_MAX_PACING_RATE`), which costs nothing and
has no burst. The option is inherited: it is set on the listening sockets, which nginx receives open.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: From <asm-generic/socket.h>. The `socket` module has no name for it. Bytes per second of each connection, socket(7).
SO_MAX_PACING_RATE = 47

_CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format lines '$uri $body_bytes_sent';
    access_log {folder}/access.log lines;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    limit_rate {limit_rate};
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        root {files};
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The addresses at which a folder is served, and the authority that verifies the certificate."""

    http: str
    https: str
    authority: Path
    log: Path

    def sent(self) -> tuple[int, int]:
        """Return the number of answered requests and of sent bytes so far. Call it while no request is running."""
        sizes = [int(line.rsplit(" ", 1)[1]) for line in self.log.read_text().splitlines()]
        return len(sizes), sum(sizes)

    def at(self, scheme: str) -> str:
        """Return the base URL of a scheme."""
        return self.https if scheme == "https" else self.http


@contextmanager
def serving(files: Path, folder: Path, *, pace: int | None = None, limit_rate: str = "0") -> Iterator[Origin]:
    """Serve `files` until the end of the block. nginx's own files go to `folder`.

    `pace` is the bytes per second of each connection, `limit_rate` nginx's limit of each request.
    """
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        message = "the comparison needs nginx (tests/debian-packages.txt)"
        raise SystemExit(message)
    folder.mkdir(parents=True)
    authority = _certify(folder)
    with listening(pace) as http, listening(pace) as https:
        ports = {"http": http.getsockname()[1], "https": https.getsockname()[1]}
        # As root, the worker would become a user that cannot read the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(folder=folder, files=files, user=user, limit_rate=limit_rate, **ports)
        )
        sockets = (http.fileno(), https.fileno())
        server = subprocess.Popen(
            [program, "-c", str(configuration), "-e", str(folder / "error.log")],
            # nginx takes over open sockets when a running one replaces its program. It names them in this variable.
            env={**os.environ, "NGINX": "".join(f"{number};" for number in sockets)},
            pass_fds=sockets,
        )
    try:
        _wait_for(folder / "nginx.pid", server)
        yield Origin(
            http=f"http://127.0.0.1:{ports['http']}",
            https=f"https://127.0.0.1:{ports['https']}",
            authority=authority,
            log=folder / "access.log",
        )
    finally:
        server.terminate()
        server.wait(10)


def _certify(folder: Path) -> Path:
    """Write `key.pem` and the self-signed `certificate.pem`. Returns the certificate, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dcsync bench")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(pem))
    return path


def listening(pace: int | None) -> socket.socket:
    """Return a socket that listens on a free port, whose connections send at most `pace` bytes per second."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    if pace is not None:
        listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
    listener.listen(511)
    return listener


def _wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    """Wait until nginx has written its pid, after it has read its configuration."""
    for _ in range(600):
        if path.exists():
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    message = f"nginx did not start ({path.parent}/error.log)"
    raise SystemExit(message)
