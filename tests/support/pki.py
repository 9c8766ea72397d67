"""A certificate authority of a test's own: made by the ``openssl`` program, as operators make theirs.

Owns: files in one folder. Must never: be asked for a certificate twice under one name.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: str
    key: str


def openssl(*arguments: str) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program")
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


class Authority:
    """A CA in ``folder``; its own certificate is ``ca``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = str(folder / f"{name}.pem")
        self._key = str(folder / f"{name}.key")
        openssl("req", "-x509", *EC, "-nodes", "-keyout", self._key, "-out", self.ca, "-days", "30", "-subj", f"/CN={name}")

    def issue(self, name: str, *hosts: str, ended: bool = False, common: str = "", kind: tuple[str, ...] = EC) -> Pair:
        """A certificate for ``hosts`` (names and addresses) in ``<name>.pem``; ``ended``: its time is over."""
        base = self.folder / name
        wanted, cert, key, extra = f"{base}.csr", f"{base}.pem", f"{base}.key", f"{base}.ext"
        openssl("req", *kind, "-nodes", "-keyout", key, "-out", wanted, "-subj", f"/CN={common or name}")
        names = ",".join(f"IP:{host}" if host.replace(".", "").isdigit() or ":" in host else f"DNS:{host}" for host in hosts)
        Path(extra).write_text((f"subjectAltName={names}\n" if names else "") + "basicConstraints=CA:FALSE\n")
        signed = ["x509", "-req", "-in", wanted, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-out", cert,
                  "-extfile", extra, "-days", "-1" if ended else "30"]  # fmt: skip
        openssl(*signed)
        return Pair(cert, key)

    def fingerprint(self, pair: Pair) -> str:
        return openssl("x509", "-in", pair.cert, "-noout", "-fingerprint", "-sha256").partition("=")[2].strip()


def self_signed(folder: Path, name: str, *hosts: str) -> Pair:
    names = ",".join(f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts)
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    openssl("req", "-x509", *EC, "-nodes", "-keyout", key, "-out", cert, "-days", "30", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName={names}")  # fmt: skip
    return Pair(cert, key)


@dataclass(frozen=True)
class Certificates:
    """What most tests of TLS need, made once for a session: a CA, what it has issued, and what it has not."""

    authority: Authority
    gateway: Pair  # for localhost and 127.0.0.1
    other: Pair  # for a.example and *.b.example
    rsa: Pair  # for localhost and 127.0.0.1
    client: Pair
    ended: Pair
    alone: Pair  # self-signed, for localhost
    stranger: Authority  # another CA
    strange: Pair  # of that one, for localhost

    @property
    def ca(self) -> str:
        return self.authority.ca

    def server(self, pair: Pair | None = None, clients: bool = False) -> ssl.SSLContext:
        """For an engine of a test's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = pair or self.gateway
        context.load_cert_chain(pair.cert, pair.key)
        if clients:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def trusting(self, pair: Pair | None = None) -> ssl.SSLContext:
        """For a client of a test's."""
        context = ssl.create_default_context(cafile=self.ca)
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


def certificates(folder: Path) -> Certificates:
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    return Certificates(
        authority,
        authority.issue("gateway", "localhost", "127.0.0.1"),
        authority.issue("other", "a.example", "*.b.example"),
        authority.issue("rsa", "localhost", "127.0.0.1", kind=RSA),
        authority.issue("client"),
        authority.issue("ended", "localhost", "127.0.0.1", ended=True),
        self_signed(folder, "alone", "localhost"),
        stranger,
        stranger.issue("strange", "localhost"),
    )
