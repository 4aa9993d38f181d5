"""nginx on loopback, which serves the bytes over http and https with a self-signed certificate."""

from __future__ import annotations

import datetime as dt
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

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format lines '$uri $body_bytes_sent';
    access_log {folder}/access.log lines;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
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
def serving(files: Path, folder: Path) -> Iterator[Origin]:
    """Serve `files` until the end of the block. nginx's own files go to `folder`."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        message = "the comparison needs nginx (tests/debian-packages.txt)"
        raise SystemExit(message)
    folder.mkdir(parents=True)
    authority = _certify(folder)
    http, https = _free_port(), _free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, files=files, http=http, https=https))
    server = subprocess.Popen([program, "-c", str(configuration), "-e", str(folder / "error.log")])
    try:
        _wait_for(http)
        yield Origin(
            http=f"http://127.0.0.1:{http}",
            https=f"https://127.0.0.1:{https}",
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


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    message = "nginx did not start listening"
    raise SystemExit(message)
