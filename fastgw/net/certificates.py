"""Certificates: what the gateway shows to its clients, whom it believes among engines, and the files that both come from.

    Shown    the listener's end: one context for each certificate, chosen by the name that a client asks for (SNI)
    Trust    what engines are believed by: CAs, our own certificate for those that want one; shared by engines that say the same
    Believed an engine's end: a trust, the name that its certificate must have, the last session

Files are read at a start, and again when they have changed (:func:`keep_fresh`) or when somebody says so. What cannot be used
then changes nothing: the log says why, and connections go on by what was there before. Connections that live keep what they
have. Must never: put anything of a private key into a message, or leave a certificate unchecked without having been told to.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from time import time
from typing import Final, NamedTuple

from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.tls import TlsWire
from fastgw.net.tls_end import End
from fastgw.net.unusable import TlsError
from fastgw.protocol.x509 import begins_at, ends_at, names_its_issuer, names_of
from fastgw.stats import EventLog

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
LOOK_S: Final = 2.0
SESSION_S: Final = 10.0  # for so long one session of an engine's is taken for the next connections
# Of TLS 1.3, for a client that is new; who comes again by it gets another. (OpenSSL gives two, each 10 µs of a handshake.)
TICKETS: Final = 1
ENDS_SOON_S: Final = 14 * 86400.0
# Forward secrecy and authenticated encryption only. (TLS 1.3 has no others.)
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
HTTP_1: Final = ("http/1.1",)
BOTH: Final = ("h2", "http/1.1")
_NOT_ITS_KEY: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class Files:
    """The files that something was made of, and whether they have changed since."""

    __slots__ = ("_changing", "_seen", "paths", "unusable")

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(path for path in paths if path)
        self._changing: object = None
        self._seen = self._look()
        self.unusable = False  # what was read last

    def changed(self) -> bool:
        """Whether they are others since the last time that this was said, and have come to rest: a certificate and its key are
        two files, and one is written before the other."""
        now = self._look()
        if now == self._seen:
            self._changing = None
        elif now == self._changing:
            self.taken(now)
            return True
        else:
            self._changing = now
        return False

    def taken(self, now: object = None) -> bool:
        """They are read now. Whether they are others since the last time."""
        now = now or self._look()
        others = now != self._seen
        self._seen = now
        self._changing = None
        return others

    def _look(self) -> object:
        found = []
        for path in self.paths:
            try:
                one = os.stat(path)
            except OSError as error:
                found.append((error.errno or 0, 0, 0, 0))
            else:
                found.append((one.st_mtime_ns, one.st_size, one.st_ino, one.st_ctime_ns))
        return tuple(found)


class Kept:
    """Made of files, and made again."""

    __slots__ = ("files",)

    files: Files

    def load(self) -> None:
        """Read the files (in any thread). Raises TlsError, and then nothing has changed."""
        raise NotImplementedError


class Showing(NamedTuple):
    """What a listener shows: pairs of certificate and key, the first for whoever names none of them. ``client_ca`` "" = no
    certificates are asked of clients, ``client_required`` = whoever has none is refused."""

    pairs: Sequence[tuple[str, str]]
    client_ca: str = ""
    client_required: bool = False
    least: str = "1.2"
    protocols: Sequence[str] = HTTP_1


class Shown(End, Kept):
    """A listener's end. ``plain`` is what is answered to who speaks HTTP without TLS."""

    __slots__ = ("_by_name", "_of_http_1", "_showing", "asks", "context", "notes", "plain")

    accepts = True

    def __init__(self, showing: Showing, plain: bytes = b"") -> None:
        """Raises TlsError."""
        self._showing = showing
        self.plain = plain
        self.asks = bool(showing.client_ca)
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._of_http_1: Shown | None = None  # the same, where nothing else is spoken
        self.context: ssl.SSLContext
        self.notes: tuple[str, ...] = ()
        self.files = Files([path for pair in showing.pairs for path in pair] + [showing.client_ca])
        self.load()

    def load(self) -> None:
        by_name: dict[str, ssl.SSLContext] = {}
        notes = []
        first = None
        for certificate, key in self._showing.pairs:
            context = _showing_context(self._showing, certificate, key)
            first = first or context
            names, begins, end, alone = _facts(certificate)
            for name in names:
                by_name.setdefault(name, context)
            if end - time() < ENDS_SOON_S:
                how = "has expired" if end < time() else "ends within two weeks"
                notes.append(f"the certificate in {certificate} {how}")
            if begins > time():
                notes.append(f"the certificate in {certificate} is not valid yet (or this machine's clock is wrong)")
            if alone:
                notes.append(
                    f"the certificate in {certificate} is alone there, and comes from a CA that clients may not know: they "
                    "want the chain in that file (certbot: fullchain.pem)"
                )
        if first is None:
            raise TlsError("there is no certificate")
        if len(self._showing.pairs) > 1:
            first.sni_callback = self._choose
        # (The names first: who comes in between would look for a new context among the old ones.)
        self._by_name = by_name
        self.context = first
        self.notes = tuple(notes)
        if self._of_http_1 is not None:
            self._of_http_1.load()

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            name = name.lower()
            found = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
            if found is not None:
                tls.context = found

    def lasting(self) -> ssl.SSLContext:
        """A context of HTTP/1 for who keeps one: each handshake is made by what is shown at that time. Raises TlsError."""
        self._of_http_1 = Shown(self._showing._replace(protocols=HTTP_1))
        lasting = _Lasting(ssl.PROTOCOL_TLS_SERVER)
        lasting.shown = self._of_http_1
        return lasting

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.context.wrap_bio(incoming, outgoing, server_side=True)

    def misspoken(self) -> bytes:
        return self.plain


class _Lasting(ssl.SSLContext):
    """Makes nothing of its own: tickets would outlive the CA by which their clients were believed."""

    __slots__ = ("shown",)

    shown: Shown

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
        server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:  # fmt: skip
        return self.shown.session(incoming, outgoing)


class Trust(Kept):
    """What engines are believed by."""

    __slots__ = ("_ca", "_certificate", "_key", "_verify", "context", "context_h2")

    def __init__(self, ca: str, certificate: str, key: str, verify: bool) -> None:
        """``ca`` "" = those of the system. Raises TlsError."""
        self._ca = ca
        self._certificate = certificate
        self._key = key
        self._verify = verify
        self.context: ssl.SSLContext
        self.context_h2: ssl.SSLContext | None = None  # with which HTTP/2 may be agreed on; None = nobody has asked for it
        self.files = Files([ca, certificate, key])
        self.load()

    def load(self) -> None:
        context, context_h2 = self._made(HTTP_1), None if self.context_h2 is None else self._made(BOTH)
        self.context, self.context_h2 = context, context_h2

    def for_h2(self) -> None:
        """See that there is :attr:`context_h2`. Raises TlsError."""
        if self.context_h2 is None:
            self.context_h2 = self._made(BOTH)

    def _made(self, protocols: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self._ca:
            _read("CA file", self._ca, lambda: context.load_verify_locations(self._ca))
            # (A private engine's own certificate may stand there in its CA's place.)
            context.verify_flags |= ssl.VerifyFlags(0x80000)  # X509_V_FLAG_PARTIAL_CHAIN
        else:
            context.load_default_certs()
        if self._certificate:
            _load_pair(context, self._certificate, self._key)
        if protocols is BOTH:
            # (Which cipher, and whether HTTP/2 may be spoken by it (RFC 9113 §9.2.2), is the engine's choice: one of HTTP/1 may
            # have older ones alone.)
            context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(list(protocols))
        return context

    @property
    def verifies(self) -> bool:
        return self._verify


class Believed(End):
    """An engine's end."""

    __slots__ = ("_h2", "_session", "_session_at", "_session_of", "name", "trust")

    def __init__(self, trust: Trust, name: str, h2: bool = False) -> None:
        """``h2``: HTTP/2 may be agreed on. Raises TlsError."""
        self.trust = trust
        self._h2 = h2
        if h2:
            trust.for_h2()
        self.name = name  # that its certificate must have
        self._session: ssl.SSLSession | None = None
        self._session_of: ssl.SSLContext | None = None
        self._session_at = -SESSION_S

    @property
    def context(self) -> ssl.SSLContext:
        """By which a connection that begins now is made."""
        trust = self.trust
        return (trust.context_h2 if self._h2 else None) or trust.context

    def for_h2(self) -> Believed:
        """The end of the same engine, where HTTP/2 may be agreed on. Raises TlsError."""
        return Believed(self.trust, self.name, True)

    def wire(self, reactor: Reactor) -> TlsWire:
        """To dial with."""
        return TlsWire(reactor, self)

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        context = self.context
        known = self._session if self._session_of is context else None
        return context.wrap_bio(incoming, outgoing, server_hostname=self.name, session=known)

    def spoken(self, tls: ssl.SSLObject) -> None:
        now = monotonic()
        context = self.context
        if (now - self._session_at >= SESSION_S or self._session_of is not context) and tls.context is context:
            session = tls.session
            if session is not None and session.has_ticket:
                self._session = session
                self._session_of = context
                self._session_at = now


_trusts: Final[dict[tuple[object, ...], Trust]] = {}
"""Those that are in use, by what they were made of: the system's CAs are a megabyte, and ten milliseconds."""


def believed(name: str, ca: str, certificate: str, key: str, verify: bool) -> Believed:
    """The end of an engine whose certificate is to be for ``name``. Raises TlsError."""
    wanted = (ca, certificate, key, verify)
    trust = _trusts.get(wanted)
    if trust is None:
        trust = _trusts[wanted] = Trust(ca, certificate, key, verify)
    return Believed(trust, name)


async def keep_fresh(kept: Callable[[], Iterable[Kept]], log: EventLog) -> None:
    """Look at the files every few seconds, for ever, and read those again that have changed."""
    while True:
        await asyncio.sleep(LOOK_S)
        for one in kept():
            if one.files.changed():
                await read_again(one, log)


async def read_again(one: Kept, log: EventLog, changed: bool = True) -> None:
    """Read the files, in a thread. What cannot be used is told to the log, and leaves what there was. ``changed``: they are
    known to be others; where they are not, nothing is told of a success."""
    changed = one.files.taken() or one.files.unusable or changed
    try:
        await asyncio.to_thread(one.load)
        one.files.unusable = False
    except TlsError as error:
        one.files.unusable = True
        log.error("certificates were not taken over", reason=str(error), files=" ".join(one.files.paths))
        return
    if changed:
        log.info("certificates were read again", files=" ".join(one.files.paths))
    for note in getattr(one, "notes", ()):
        log.warning(note)


def _showing_context(showing: Showing, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[showing.least]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    # (A client that may show a certificate shows it each time: by tickets one whose time is over, or in whose place there is
    # another, would go on for ever, as each brings the next. TLS 1.2's, which do not, end two hours after it was seen.)
    context.num_tickets = 0 if showing.client_ca else TICKETS
    _load_pair(context, certificate, key)
    context.set_alpn_protocols(list(showing.protocols))
    if showing.client_ca:
        _read("CA file", showing.client_ca, lambda: context.load_verify_locations(showing.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED if showing.client_required else ssl.CERT_OPTIONAL
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # (Without the callback OpenSSL would ask for a password at the terminal.)
    _read("certificate", certificate, lambda: context.load_cert_chain(certificate, key or None, password=_no_password), key)


def _no_password() -> str:
    raise TlsError("the key is encrypted: store it without a passphrase, readable by this user alone")


def _read(what: str, path: str, load: Callable[[], object], key: str = "") -> None:
    where = f"{what} {path}" + (f" with key {key}" if key and key != path else "")
    try:
        load()
    except TlsError as error:
        raise TlsError(f"{where}: {error}") from None
    except ssl.SSLError as error:
        why = "the key does not belong to the certificate" if error.reason in _NOT_ITS_KEY else ""
        missing = "no certificate with its key" if key == path else "nothing of that kind"
        why = why or (error.reason or missing).replace("_", " ").lower() + " in PEM"
        why += " (the key may have a file of its own)" if key == path and not error.reason else ""
        raise TlsError(f"{where}: {why}") from None
    except OSError as error:
        raise TlsError(f"{where}: {error.strerror or error}") from None


def _facts(path: str) -> tuple[tuple[str, ...], float, float, bool]:
    """Of the first certificate in a file: for which names it is, when it begins and ends; and whether it is alone there,
    although it names others, which lead from it to a CA's own."""
    try:
        with open(path, encoding="latin-1") as file:
            text = file.read()
        begin = text.index(_BEGIN)
        end = text.index("-----END CERTIFICATE-----", begin)
        der = ssl.PEM_cert_to_DER_cert(text[begin:end] + "-----END CERTIFICATE-----")
        alone = text.count(_BEGIN) == 1 and names_its_issuer(der)
        return names_of(der), begins_at(der), ends_at(der), alone
    except (OSError, ValueError) as error:
        raise TlsError(f"certificate {path}: {error}") from None
