"""What the audit holds fastgw to: one table for each question, each row with its reason.

Must never: be weakened to make an audit pass. A row goes when its reason has gone; a new exception says whose, what and why.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SHIPPED_EXTRAS: Final = ("bench", "dashboard", "dns", "import", "otel", "redis", "top", "zstd")
WORK_EXTRAS: Final = ("dev", "fuzz", "audit")
"""What only those who work on fastgw install: checked too, but never part of what is shipped."""
BINARY_EXTRA: Final = "binary"
"""What freezes the binary: pinned and hashed too, for its loader becomes a part of it."""
TOOL_EXTRAS: Final = ("docs", "release")
"""What makes the site of the documentation, and what has wheels built in containers: pinned and hashed too, each in a lock
and an environment of its own, for what the one writes runs in readers' browsers, and what the other builds is shipped."""

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
MACHINES: Final = ("x86_64", "aarch64")


class Floor(NamedTuple):
    """The lowest version that may be asked for, and what an older one would let in."""

    name: str
    version: str
    because: str
    references: tuple[str, ...]


FLOORS: Final = (
    Floor(
        "aiohttp",
        "3.14.4",
        "request smuggling (a WebSocket upgrade with a body, 3.14.2; the parser in pure Python, 3.14.4), a read out of bounds"
        " in the response parser (3.14.3), a form's repeated fields that hold the loop (3.14.4)",
        ("CVE-2026-69243", "CVE-2026-69244", "CVE-2026-111750", "PYSEC-2026-4393"),
    ),
    Floor(
        "h2",
        "4.4.1",
        "a request with several Host fields is passed on: smuggling, once it goes on as HTTP/1.1",
        ("CVE-2026-71554", "GHSA-6hr6-w5qg-qmwg"),
    ),
    Floor(
        "h11",
        "0.16.0",
        "a chunk's line end is not checked: request smuggling",
        ("CVE-2025-43859", "GHSA-vqfr-h8mv-ghfj"),
    ),
    Floor(
        "httptools",
        "0.9.0",
        "a long URL is cut where it is split (0.8.0); llhttp 9.4.3 refuses an empty Transfer-Encoding (0.9.0). No advisory"
        " numbers either",
        ("MagicStack/httptools#142", "nodejs/llhttp#874"),
    ),
)

CANARY: Final = ("h11", "0.14.0", "CVE-2025-43859")
"""Asked for first: a source that does not know this one knows nothing, whatever it answers about the others."""

SOURCES: Final = ("osv", "pypi", "esms")
"""The vulnerability services of pip-audit, in the order in which they are tried."""

LICENCES: Final = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Python-2.0",
    "Unlicense", "Zlib",
    "BSD",  # two or three clauses: what older metadata cannot tell apart, and allows the same
}  # fmt: skip
"""Permissive ones, by their SPDX names: they ask for a notice, and for nothing of fastgw's own."""

LICENCE_EXCEPTIONS: Final = {
    "certifi": ("MPL-2.0", "the list of certificate authorities, unchanged; its terms end at its own files. Only with `otel`"),
}
"""Of one distribution, not of a licence: (what it may say, why that is fine)."""

LICENCE_NAMES: Final = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD",
    "bsd license": "BSD",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
"""What metadata from before SPDX names says (the field and the classifiers' last part, in lower case)."""

MAX_FILE_BYTES: Final = 200_000
"""The largest file written for this project is 92 kB of measurements; a generated or copied one is larger before long."""

VENDOR_NAMES: Final = {"vendor", "vendored", "_vendor", "third_party", "third-party", "thirdparty", "node_modules"}
FOREIGN: Final = re.compile(r"[Cc]opyright (?:\(c\)|©|[12]\d{3})|SPDX-[L]icense-Identifier:")
"""The head of somebody else's file. fastgw's own have none: LICENSE speaks for all of them. (The brackets keep it from
finding itself.)"""

SECRETS: Final = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a key of fastgw": re.compile(r"fgw_[A-Za-z0-9_-]{43}\b"),
    "a key of OpenAI, Anthropic or alike": re.compile(r"sk-(?<![A-Za-z0-9]sk-)(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"),
    "a token of GitHub": re.compile(r"g(?:h[pousr]_[A-Za-z0-9]{36}|ithub_pat_[A-Za-z0-9_]{22,})"),
    "a token of GitLab": re.compile(r"glpat-[A-Za-z0-9_-]{20,}"),
    "a token of Python's package index": re.compile(r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    "a token of npm": re.compile(r"npm_[A-Za-z0-9]{36}\b"),
    "a token of Hugging Face": re.compile(r"hf_[A-Za-z]{34}\b"),
    "a token of Slack": re.compile(r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "a key of AWS": re.compile(r"A(?:KIA|SIA)[0-9A-Z]{16}\b"),
    "a key of Google": re.compile(r"AIza[0-9A-Za-z_-]{35}"),
    "a JSON Web Token": re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
}
"""Each begins with its own letters and no word boundary: so the whole tree takes a tenth of the time."""

NOT_SECRET: Final = {
    "2dfacb4231b34bb4": "benchmarks/micro/protocol.py: the digits in order, twice",
}
"""Texts that look like keys and are made up: the first 16 digits of their SHA-256, so that none of them stands here."""
