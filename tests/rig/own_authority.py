"""A certificate authority of our own, and a certificate of it for `localhost`, made by openssl."""

import ssl
import subprocess
from pathlib import Path


class OwnAuthority:
    """`ca_file`: its certificate, PEM. `server`: what a server on `localhost` proves itself with, from
    `certificate_file` and `key_file`."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        ca_key, key, request, certificate, names = (
            folder / name for name in ("ca.key", "key.pem", "request.pem", "certificate.pem", "names")
        )
        names.write_text("subjectAltName=DNS:localhost")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl(
            "req",
            "-x509",
            *new_key,
            "-keyout",
            ca_key,
            "-out",
            self.ca_file,
            "-subj",
            "/CN=Our own authority",
        )
        _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
        signed = ("-CA", self.ca_file, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
        self.certificate_file, self.key_file = certificate, key
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(certificate, key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
