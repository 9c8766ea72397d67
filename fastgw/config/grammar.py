"""What one text of the configuration must look like: keys, paths, origins, hosts, networks, addresses.

Owns: the grammars of single values, as checks that rows of the table carry: each takes a value of the right type and tells
what is wrong with it, one sentence a mistake. Must never: look at a second setting, or put a secret into a sentence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from fastgw.config.address import MAX_UNIX_PATH_BYTES, parse_engine_url, parse_host, parse_host_port
from fastgw.config.names import GPU_NAMES, POLICIES

MIN_ADMIN_KEY: Final = 16  # characters; shorter ones can be guessed at, and this one makes keys
MOST_ADMIN_KEYS: Final = 64  # each is compared with what a caller shows
MAX_ADMIN_FILE_BYTES: Final = 1 << 16
MAX_WEBHOOK_CHARS: Final = 2048
RETRY_STATUSES: Final = ("429", "500", "502", "503", "504")

# A key must be able to travel in an Authorization field; see RFC 6750 section 2.1, taken a little wider.
KEY: Final = re.compile(r"[\x21-\x7e]{1,1024}\Z")
# (Those below are compiled by who needs them: half a millisecond of every start.)
_PATH: Final = r"(?:/[A-Za-z0-9._~-]+)+(?:/\*)?"
# Of the gateway's own paths: what they are called, alone or as the beginning of others.
_OWN_PATHS: Final = (
    "/admin", "/dashboard", "/health", "/healthz", "/liveness", "/metrics", "/readiness", "/ready", "/runners", "/ws",
)  # fmt: skip
_WHOLE_API: Final = "/v1/*"
_ADMIN_NAME: Final = r"[A-Za-z0-9_-]{1,64}"
_TARGET: Final = r"/[A-Za-z0-9._~!$&'()*+,;=:@/%?-]*"
_ORIGIN: Final = r"(?i:https?)://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_FIELD_NAME: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"
_WEBHOOK: Final = r"https?://(?:[A-Za-z0-9._~!$&'()*+,;=:%-]+@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:[/?][\x21\x22\x24-\x7e]*)?"
_HOST_ENTRY: Final = r"\*|(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?"


def engine_url(text: str) -> list[str]:
    try:
        parse_engine_url(text)
    except ValueError as error:
        return [str(error)]
    return []


def address(host: str) -> list[str]:
    try:
        parse_host(host)
    except ValueError as error:
        return [str(error)]
    return []


def field_name(name: str) -> list[str]:
    return ["must be the name of an HTTP field"] if name and not re.fullmatch(_FIELD_NAME, name) else []


def sources(entries: Sequence[str]) -> list[str]:
    found = []
    for source in entries:
        kind, colon, name = source.partition(":")
        if kind in {"agents", "key", "address"}:
            good = not colon
        else:
            good = kind in {"header", "cookie", "body"} and bool(re.fullmatch(_FIELD_NAME, name)) and len(name) <= 32
        if not good:
            found.append(f"{source!r} must be agents, header:<name>, cookie:<name>, body:<member>, key or address")
    return found


def policies(entries: Sequence[str]) -> list[str]:
    return [f"{name!r} is no policy: {', '.join(POLICIES)}" for name in entries if name not in POLICIES]


def gpu_names(entries: Sequence[str]) -> list[str]:
    return [f"{name!r} is no set of names: {', '.join(GPU_NAMES)}" for name in entries if name not in GPU_NAMES]


def collector(text: str) -> list[str]:
    try:
        fine = not parse_engine_url(text).unix_path
    except ValueError:
        fine = False
    wanted = "must be http://host:port or https://host:port and a plain path; keys go into OTEL_EXPORTER_OTLP_HEADERS"
    return [] if fine else [wanted]


def host_port(text: str) -> list[str]:
    if not text:
        return []
    try:
        parse_host_port(text.removesuffix(":0") + ":1" if text.endswith(":0") else text)  # 0 = a free port
    except ValueError as error:
        return [str(error)]
    return []


def name_server(text: str) -> list[str]:
    problems = host_port(text)
    if text and not problems and text.rpartition(":")[0].strip("0123456789.") and ":" not in text.rpartition(":")[0]:
        return ["must be an address and a port: a name would have to be looked up first"]
    return problems


def host_name(name: str) -> list[str]:
    return address(name) if name else []


def readable(paths: Sequence[str]) -> list[str]:
    return [problem for path in paths for problem in readable_one(path)]


def readable_one(path: str) -> list[str]:
    if not path:
        return []
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        return [f"cannot read {path}: {getattr(error, 'strerror', None) or error}"]
    return []


def fingerprint(text: str) -> bytes:
    """The 32 bytes that a fingerprint stands for, with colons or without; raises ``ValueError``."""
    raw = bytes.fromhex(text.replace(":", ""))
    if len(raw) != 32:
        raise ValueError("this is no SHA-256")
    return raw


def fingerprints(entries: Sequence[str]) -> list[str]:
    found = []
    for number, text in enumerate(entries, 1):
        try:
            fingerprint(text)
        except ValueError:
            found.append(f"entry {number} must be a SHA-256 fingerprint: 64 hexadecimal digits, with colons or without")
    return found


def socket_path(path: str) -> list[str]:
    long = len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES
    return [f"the path is longer than {MAX_UNIX_PATH_BYTES} bytes"] if long else []


def currency(word: str) -> list[str]:
    return [] if re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,15}", word) else ["must be a word of 16 letters at most, such as USD"]


def webhook_url(text: str) -> list[str]:
    if not text:
        return []
    found = re.fullmatch(_WEBHOOK, text) if len(text) <= MAX_WEBHOOK_CHARS else None
    fine = found is not None and 0 < int(found[1] or 1) < 1 << 16
    return [] if fine else [f"must be http://host:port/path or https://host/path, of {MAX_WEBHOOK_CHARS} characters at most"]


def webhook_secret(secret: str) -> list[str]:
    if 0 < len(secret) < MIN_ADMIN_KEY and KEY.match(secret):
        return [f"must have {MIN_ADMIN_KEY} characters or more: whoever guesses it signs what he likes"]
    return engine_key(secret)


def engine_key(key: str) -> list[str]:
    return ["must be visible ASCII without blanks"] if key and not KEY.match(key) else []


def admin_key(key: str) -> list[str]:
    if 0 < len(key) < MIN_ADMIN_KEY and KEY.match(key):
        return [f"must have {MIN_ADMIN_KEY} characters or more: whoever guesses it makes keys"]
    return engine_key(key)


def admin_keys(entries: Sequence[str]) -> list[str]:
    """Of ``admin_keys``; entries are named by their position only."""
    found = []
    names = set()
    for number, entry in enumerate(entries, 1):
        name, role, key = (*entry.split(":", 2), "", "")[:3]
        if not re.fullmatch(_ADMIN_NAME, name) or role not in ("read", "write") or not key:
            found.append(f"entry {number} must be name:role:key, its role read or write, its name letters, digits, - and _")
        elif problems := admin_key(key):
            found.append(f"the key of entry {number} {problems[0]}")
        elif name in names:
            found.append(f"entry {number} has the name of one before it")
        names.add(name)
    if len(entries) > MOST_ADMIN_KEYS:
        found.append(f"holds more than {MOST_ADMIN_KEYS} keys")
    return found


def admin_keys_in(path: str) -> list[str]:
    """The entries of ``admin_keys_file``. Raises OSError, ValueError."""
    if not path:
        return []
    with open(path, "rb") as file:
        data = file.read(MAX_ADMIN_FILE_BYTES + 1)
    if len(data) > MAX_ADMIN_FILE_BYTES:
        raise ValueError(f"it is longer than {MAX_ADMIN_FILE_BYTES} bytes")
    lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def admin_keys_file(path: str) -> list[str]:
    try:
        entries = admin_keys_in(path)
    except UnicodeDecodeError:
        return [f"{path} is not UTF-8 text"]
    except (OSError, ValueError) as error:
        return [f"cannot read {path}: {getattr(error, 'strerror', None) or error}"]
    if path and not entries:
        return [f"{path} holds no key"]
    return [f"{path}: {problem}" for problem in admin_keys(entries)]


def runner_token(token: str) -> list[str]:
    if 0 < len(token) < MIN_ADMIN_KEY and KEY.match(token):
        return [f"must have {MIN_ADMIN_KEY} characters or more: whoever guesses it is sent prompts"]
    return engine_key(token)


def target(path: str) -> list[str]:
    return ["must be a path that begins with /"] if path and not re.fullmatch(_TARGET, path) else []


def paths(entries: Sequence[str]) -> list[str]:
    found = []
    for path in entries:
        if not re.fullmatch(_PATH, path) or "/../" in path + "/" or "/./" in path + "/":
            found.append(f"{path!r} must be a path such as /v1/name or /api/name, or /v1/name/* for all below")
        elif path == _WHOLE_API:
            found.append(f"{path!r} takes in what the gateway answers itself: name what is meant, as /v1/files and /v1/files/*")
        elif own := [name for name in _OWN_PATHS if (path + "/").startswith(name + "/")]:
            found.append(f"{path!r} is the gateway's own: name paths of engines, none that begins with {own[0]}")
    return found


def origins(entries: Sequence[str]) -> list[str]:
    found = []
    for origin in entries:
        if origin != "*" and not re.fullmatch(_ORIGIN, origin):
            found.append(f"{origin!r} must be * or scheme://host[:port]")
        elif (sent := _as_browsers_send(origin)) != origin:
            found.append(f"{origin!r} is never sent by a browser, which writes {sent!r}")
    return found


def hosts(entries: Sequence[str]) -> list[str]:
    return [
        f"{host!r} must be a host name without a port, *.name, or *" + _as_hosts_are_sent(host)
        for host in entries
        if not re.fullmatch(_HOST_ENTRY, host)
    ]


def networks(texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    import ipaddress  # 3 ms that only those with proxies pay

    found = []
    for text in texts:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            found.append(f"{text!r} is not an address or network such as 10.0.0.0/8")
    return found


def statuses(entries: Sequence[str]) -> list[str]:
    return [f"{status!r} must be one of {', '.join(RETRY_STATUSES)}" for status in entries if status not in RETRY_STATUSES]


def _as_browsers_send(origin: str) -> str:
    """In lower case, and without the port that the scheme has in any case (RFC 6454 §6.2)."""
    lower = origin.lower()
    return lower.removesuffix(":80" if lower.startswith("http:") else ":443")


def _as_hosts_are_sent(host: str) -> str:
    return "" if host.isascii() else "; write it in punycode (xn--...), as it is sent"
