"""Certificates: which one is shown, what is taken over when files change, and what is told where they cannot be used."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from fastgw.net import certificates
from fastgw.net.certificates import Files, Showing, Shown, Trust, believed, read_again
from fastgw.net.unusable import TlsError
from tests.support.gateway import Events
from tests.support.pki import EC, Certificates, Pair, openssl

pytestmark = pytest.mark.once


def shown_to(
    shown: Shown,
    name: str | None,
    trusting: ssl.SSLContext,
    session: ssl.SSLSession | None = None,
    lasting: ssl.SSLContext | None = None,
) -> ssl.SSLObject:
    """A client's end of a handshake in memory; with ``lasting`` by that context."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = trusting.wrap_bio(client_in, client_out, server_hostname=name, session=session)
    server = shown.session(server_in, server_out) if lasting is None else lasting.wrap_bio(server_in, server_out, True)
    for _ in range(6):
        for one, theirs, ours in ((client, client_out, server_in), (server, server_out, client_in)):
            with suppress(ssl.SSLWantReadError):
                one.do_handshake()
            ours.write(theirs.read())
    with pytest.raises(ssl.SSLWantReadError):
        client.read(1)  # (tickets)
    return client


def names(tls: ssl.SSLObject) -> list[str]:
    found = tls.getpeercert() or {}
    return [value for _, value in found["subjectAltName"]]  # type: ignore[misc]


def pairs(*given: Pair) -> list[tuple[str, str]]:
    return [(pair.cert, pair.key) for pair in given]


@pytest.mark.parametrize(("asked", "shows"), [
    ("localhost", "localhost"), ("LOCALHOST", "localhost"), ("a.example", "a.example"), ("x.b.example", "a.example"),
    ("b.example", "localhost"), ("x.y.b.example", "localhost"), ("elsewhere", "localhost"), (None, "localhost"),
])  # fmt: skip
def test_the_certificate_is_chosen_by_the_name_that_is_asked_for(certs: Certificates, asked: str | None, shows: str) -> None:
    shown = Shown(Showing(pairs(certs.gateway, certs.other)))
    trusting = certs.trusting()
    trusting.check_hostname = False
    assert names(shown_to(shown, asked, trusting))[0] == shows


def test_a_session_goes_on_in_the_next_connection(certs: Certificates) -> None:
    shown = Shown(Showing(pairs(certs.gateway, certs.other)))
    trusting = certs.trusting()
    for most in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trusting.maximum_version = most
        first = shown_to(shown, "localhost", trusting)
        assert not first.session_reused
        again = shown_to(shown, "localhost", trusting, first.session)
        assert again.session_reused
        assert shown_to(shown, "localhost", trusting, again.session).session_reused, "who comes again has another ticket"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("lasts", [False, True])
def test_a_session_does_not_outlive_the_ca_of_its_client(
    certs: Certificates, tmp_path: Path, version: ssl.TLSVersion, lasts: bool
) -> None:
    believed = shutil.copy(certs.ca, tmp_path / "clients.pem")
    shown = Shown(Showing(pairs(certs.gateway, certs.other), str(believed), client_required=True))
    lasting = shown.lasting() if lasts else None
    trusting = certs.trusting(certs.client)
    trusting.maximum_version = version
    before = shown_to(shown, "localhost", trusting, lasting=lasting).session
    assert before is not None
    # (Tickets of TLS 1.3 each bring the next, so a session by them would have no end.)
    assert shown_to(shown, "localhost", trusting, before, lasting).session_reused == (version is ssl.TLSVersion.TLSv1_2)
    shutil.copy(certs.stranger.ca, believed)
    shown.load()
    with pytest.raises(ssl.SSLCertVerificationError):
        shown_to(shown, "localhost", trusting, before, lasting)


def copied(certs: Certificates, folder: Path, pair: Pair) -> Pair:
    cert, key = str(folder / "tls.crt"), str(folder / "tls.key")
    shutil.copy(pair.cert, cert)
    shutil.copy(pair.key, key)
    return Pair(cert, key)


async def test_files_that_have_changed_are_read_again_and_bad_ones_change_nothing(certs: Certificates, tmp_path: Path) -> None:
    pair = copied(certs, tmp_path, certs.gateway)
    shown = Shown(Showing(pairs(pair)))
    trusting = certs.trusting()
    trusting.check_hostname = False
    lasting = shown.lasting()
    events = Events()
    assert not shown.files.changed()
    shutil.copy(certs.other.cert, pair.cert)
    assert not shown.files.changed(), "its key may still be written"
    assert shown.files.changed()
    await read_again(shown, events)
    assert [line[1] for line in events.errors()] == ["certificates were not taken over"]
    reason = events.errors()[0][2]["reason"]
    assert reason == f"certificate {pair.cert} with key {pair.key}: the key does not belong to the certificate"
    assert names(shown_to(shown, None, trusting)) == ["localhost", "127.0.0.1"]
    assert not shown.files.changed()
    shutil.copy(certs.other.key, pair.key)
    assert not shown.files.changed()
    assert shown.files.changed()
    await read_again(shown, events)
    assert names(shown_to(shown, None, trusting)) == ["a.example", "*.b.example"]
    assert events.lines[-1][1] == "certificates were read again"
    kept = shown_to(shown, None, trusting, lasting=lasting)
    assert names(kept) == ["a.example", "*.b.example"], "who keeps a context has the new ones too"


async def test_reading_files_that_are_the_same_tells_nothing_unless_they_could_not_be_used(
    certs: Certificates, tmp_path: Path
) -> None:
    pair = copied(certs, tmp_path, certs.gateway)
    shown = Shown(Showing(pairs(pair)))
    events = Events()

    async def told() -> list[str]:
        events.lines.clear()
        await read_again(shown, events, False)
        return [line[1] for line in events.lines]

    assert await told() == []
    os.utime(pair.cert, (1, 1))
    assert await told() == ["certificates were read again"]
    assert await told() == []
    at = os.stat(pair.key)
    when = (at.st_atime_ns, at.st_mtime_ns)
    for other, says in ((certs.other.key, "not taken over"), (certs.gateway.key, "read again")):
        shutil.copyfile(other, pair.key)
        os.utime(pair.key, ns=when)
        assert await told() == [f"certificates were {says}"], "who has had an error waits for what follows it"
    assert await told() == []


def test_a_file_that_goes_and_comes_back_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("a")
    files = Files([str(path), ""])
    path.unlink()
    assert [files.changed(), files.changed(), files.changed()] == [False, True, False]
    path.write_text("b")
    assert [files.changed(), files.changed(), files.changed()] == [False, True, False]
    os.utime(path, (1, 1))
    assert [files.changed(), files.changed()] == [False, True]
    path.write_text("c")
    os.utime(path, (1, 1))
    assert [files.changed(), files.changed()] == [False, True], "of the same size and time, as `cp -p` writes it"


@pytest.mark.parametrize(("what", "says"), [
    ("no file", "No such file or directory"),
    ("no PEM", "in PEM"),
    ("another key", "the key does not belong to the certificate"),
    ("encrypted", "the key is encrypted"),
    ("a key twice", "in PEM"),
])  # fmt: skip
def test_what_cannot_be_used_is_told_and_nothing_of_a_key_is(
    certs: Certificates, tmp_path: Path, what: str, says: str
) -> None:
    pair = copied(certs, tmp_path, certs.gateway)
    if what == "no file":
        os.unlink(pair.key)
    elif what == "no PEM":
        Path(pair.cert).write_text("certificate")
    elif what == "another key":
        shutil.copy(certs.rsa.key, pair.key)
    elif what == "a key twice":
        shutil.copy(pair.key, pair.cert)
    else:
        openssl("ec", "-in", certs.gateway.key, "-out", pair.key, "-aes256", "-passout", "pass:secret")
    with pytest.raises(TlsError) as error:
        Shown(Showing(pairs(pair)))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(line in str(error.value) for line in Path(certs.gateway.key).read_text().splitlines() if len(line) > 20)


def test_a_certificate_whose_time_is_over_or_nearly_is_noted(certs: Certificates) -> None:
    assert Shown(Showing(pairs(certs.ended))).notes == (f"the certificate in {certs.ended.cert} has expired",)
    assert Shown(Showing(pairs(certs.gateway))).notes == ()


def test_what_a_client_may_miss_is_noted(certs: Certificates) -> None:
    """A public CA's certificate without those between, as `cert.pem` of certbot's is; and one whose time is to come."""
    base = certs.authority.folder / "public"
    openssl("req", "-x509", *EC, "-nodes", "-keyout", f"{base}.key", "-out", f"{base}.pem", "-days", "30", "-subj", "/CN=a",
            "-addext", "authorityInfoAccess=caIssuers;URI:http://ca.example/between.der")  # fmt: skip
    (note,) = Shown(Showing(pairs(Pair(f"{base}.pem", f"{base}.key")))).notes
    assert "is alone there" in note
    chain = Path(f"{base}.chain")
    chain.write_text(Path(f"{base}.pem").read_text() + Path(certs.ca).read_text())
    assert Shown(Showing(pairs(Pair(str(chain), f"{base}.key")))).notes == ()


def test_one_whose_time_is_to_come_is_noted(certs: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "time", lambda: 0.0)
    (note,) = Shown(Showing(pairs(certs.gateway))).notes
    assert "is not valid yet" in note


def test_a_trust_is_shared_by_engines_that_say_the_same(certs: Certificates) -> None:
    one = believed("a", certs.ca, "", "", True)
    assert believed("b", certs.ca, "", "", True).trust is one.trust
    assert believed("a", certs.ca, "", "", False).trust is not one.trust
    with pytest.raises(TlsError, match=r"CA file /nowhere: No such file or directory"):
        believed("a", "/nowhere", "", "", True)


def test_verification_is_off_only_where_it_was_told(certs: Certificates) -> None:
    for trust in (Trust("", "", "", True), Trust(certs.ca, certs.client.cert, certs.client.key, True)):
        assert (trust.context.verify_mode, trust.context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert trust.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert Trust("", "", "", False).context.verify_mode == ssl.CERT_NONE


async def test_reading_does_not_hold_the_loop(certs: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(Showing(pairs(certs.gateway)))
    seen = []
    monkeypatch.setattr(asyncio, "to_thread", lambda call: seen.append(call) or asyncio.sleep(0))
    await read_again(shown, Events())
    assert seen == [shown.load]
