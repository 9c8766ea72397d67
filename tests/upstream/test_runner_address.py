"""Where requests may be sent for a runner: its own address, those that are allowed, and never what only a gateway can reach."""

from __future__ import annotations

import pytest

from fastgw.protocol.runner_words import Register, from_runner, written
from fastgw.protocol.runners import Refused
from fastgw.upstream.runner_address import METADATA, networks, where
from tests.support.runners import register


def asked(url: str | None = None, port: int = 8000) -> Register:
    import json

    found = from_runner(json.dumps(register(url=url, http_port=port)))
    assert isinstance(found, Register)
    assert written(found)
    return found


@pytest.mark.parametrize(("peer", "listed", "url", "found"), [
    ("10.0.0.7", [], None, "http://10.0.0.7:8000"),
    ("203.0.113.9", [], None, "http://203.0.113.9:8000"),
    ("2001:db8::7", [], None, "http://[2001:db8::7]:8000"),
    ("::ffff:10.0.0.7", [], None, "http://10.0.0.7:8000"),
    ("10.0.0.7", ["10.0.0.0/8"], None, "http://10.0.0.7:8000"),
    ("10.0.0.7", [], "http://10.0.0.7:9000", "http://10.0.0.7:9000"),
    ("10.0.0.7", [], "http://10.0.0.7:9000/base/v1/", "http://10.0.0.7:9000/base"),
    ("10.0.0.7", [], "http://[::ffff:10.0.0.7]:9000", "http://10.0.0.7:9000"),
    ("10.0.0.7", ["10.1.0.0/16"], "https://10.1.2.3", "https://10.1.2.3:443"),
    ("10.0.0.7", ["2001:db8::/32"], "http://[2001:db8::1]:80", "http://[2001:db8::1]:80"),
    ("127.0.0.1", ["127.0.0.0/8"], None, "http://127.0.0.1:8000"),
    ("::1", ["::1/128"], None, "http://[::1]:8000"),
    ("fe80::1%eth0", ["fe80::/10"], None, "http://[fe80::1]:8000"),
    ("unix", ["127.0.0.0/8"], "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
])  # fmt: skip
def test_S4_07_where_requests_go(peer: str, listed: list[str], url: str | None, found: str) -> None:
    assert where(asked(url), peer, networks(listed)) == found


@pytest.mark.parametrize(("peer", "listed", "url"), [
    # Its own address is loopback or link-local, and nobody has listed that.
    ("127.0.0.1", [], None), ("127.8.9.1", [], None), ("::1", [], None), ("::ffff:127.0.0.1", [], None),
    ("169.254.7.7", [], None), ("fe80::1%eth0", [], None), ("unix", [], None), ("nonsense", [], None),
    # The list holds for its own address too.
    ("10.0.0.7", ["10.1.0.0/16"], None),
    # Somebody else's.
    ("10.0.0.7", [], "http://10.0.0.8:8000"), ("10.0.0.7", ["10.1.0.0/16"], "http://10.0.0.7:8000"),
    ("10.0.0.7", [], "http://127.0.0.1:8000"), ("10.0.0.7", ["10.0.0.0/8"], "http://127.0.0.1:8000"),
    ("10.0.0.7", ["10.0.0.0/8"], "http://[::1]:8000"), ("10.0.0.7", ["10.0.0.0/8"], "http://[::ffff:127.0.0.1]:8000"),
    ("10.0.0.7", ["10.0.0.0/8"], "http://[::127.0.0.1]:8000"), ("10.0.0.7", ["10.0.0.0/8"], "http://0.0.0.0:8000"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://0.0.0.0:8000"), ("10.0.0.7", ["::/0"], "http://[::]:8000"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://224.0.0.1:8000"), ("10.0.0.7", ["::/0"], "http://[ff02::1]:8000"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://255.255.255.255:8000"),
    # What stands for an IPv4 address is that, and IPv6 is not listed by it.
    ("10.0.0.7", ["::/0"], "http://[::ffff:10.0.0.8]:8000"), ("10.0.0.7", ["::/0"], "http://[2002:0a00:0008::]:8000"),
    ("10.0.0.7", ["::/0"], "http://[64:ff9b::10.0.0.8]:8000"),
    ("10.0.0.7", ["::/0"], "http://[64:ff9b:1::127.0.0.1]:8000"), ("10.0.0.7", ["::/0"], "http://[::ffff:0:127.0.0.1]:8000"),
    ("10.0.0.7", ["::/0"], "http://[2001:0:5db8:d822::80ff:fffe]:8000"),  # Teredo's 127.0.0.1
    # Names, and other spellings of addresses.
    ("10.0.0.7", ["0.0.0.0/0"], "http://engine.internal:8000"), ("10.0.0.7", ["0.0.0.0/0"], "http://localhost:8000"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://0x7f000001:8000"), ("10.0.0.7", ["0.0.0.0/0"], "http://2130706433:8000"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://127.1:8000"), ("10.0.0.7", ["0.0.0.0/0"], "http://010.0.0.7:8000"),
    # No URL of an engine at all.
    ("10.0.0.7", ["0.0.0.0/0"], "http://user:word@10.0.0.7:8000"), ("10.0.0.7", ["0.0.0.0/0"], "http://10.0.0.7:8000/?a"),
    ("10.0.0.7", ["0.0.0.0/0"], "ftp://10.0.0.7"), ("10.0.0.7", ["0.0.0.0/0"], "unix:/run/docker.sock"),
    ("10.0.0.7", ["0.0.0.0/0"], "http://10.0.0.7:99999"), ("10.0.0.7", ["0.0.0.0/0"], "http://10.0.0.7\n:80"),
])  # fmt: skip
def test_S4_07_where_they_must_not(peer: str, listed: list[str], url: str | None) -> None:
    with pytest.raises(Refused):
        where(asked(url), peer, networks(listed))


@pytest.mark.parametrize("address", [
    *map(str, METADATA), "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::",
    # SIIT; a network's own translator, by each length of its prefix; Teredo's server and its client; ISATAP.
    "::ffff:0:169.254.169.254", "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:0:a9:fea9:fe00:0", "2001:0:a9fe:a9fe::1", "2001:0:5db8:d822:0:0:5601:5601", "2001:db8::5efe:169.254.169.254",
    "2001:db8::200:5efe:169.254.169.254",
])  # fmt: skip
def test_a_clouds_metadata_is_never_asked_whatever_is_listed_and_whoever_comes_from_there(address: str) -> None:
    everything = networks(["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8"])
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused):
        where(asked(f"http://{host}:80"), "10.0.0.7", everything)
    with pytest.raises(Refused):
        where(asked(), address, everything)


def test_a_refusal_repeats_no_text_of_the_runners() -> None:
    with pytest.raises(Refused) as found:
        where(asked("http://canary.example:80"), "10.0.0.7", networks(["0.0.0.0/0"]))
    assert "canary" not in str(found.value)
