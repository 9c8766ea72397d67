"""The cases of servers are right: real servers pass them. What they do not pass is said here, one by one, with the reason.

For a server under test there is :func:`against`: a port, a path, and how strictly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.h2cases import server
from tests.h2cases.case import WAIT_S, Case, play
from tests.peers import parts
from tests.support.h2.peer import Client, dial

pytestmark = pytest.mark.peers

CASES = {case.id: case for case in server.cases(b"/hello")}


def against(port: int, case: Case, strict: bool = False, wait_s: float = WAIT_S) -> None:
    """Play the case against what listens there."""
    with dial(port, Client(settings=case.first, strict=False)) as line:
        if case.begin == "settings":
            line.begins()
        play(line, case, strict, wait_s)


@contextmanager
def _simulator() -> Iterator[parts.Running]:
    with parts.sim() as running:
        yield running


TARGETS = {"simulator": _simulator, "nghttpd": parts.nghttpd, "nginx": parts.nginx, "haproxy": parts.haproxy}
PROGRAMS = {"simulator": (), **{name: (name,) for name in ("nghttpd", "nginx", "haproxy")}}

# nginx answers a malformed request with 400, as RFC 9113 section 8.1.1 lets it, or forgives it; takes frames of 16 MB; and
# ignores what comes on a stream that is idle or closed.
_NGINX = (
    *("hpack/4.2/1", "hpack/5.2/1", "http2/4.2/2", "http2/4.2/3", "http2/5.1/1", "http2/5.1/2", "http2/5.1/3", "http2/5.1/5"),
    *("http2/5.1/8", "http2/5.1/11", "http2/6.1/2", "http2/6.4/2", "http2/8.1.2.1/1", "http2/8.1.2.1/2"),
    *("http2/8.1.2.1/4", "http2/8.1.2.2/1", "http2/8.1.2.2/2", "http2/8.1.2.6/1", "http2/8.1.2.6/2"),
    *(f"http2/8.1.2.3/{number}" for number in range(1, 8)),
)
FAILS = {
    "simulator": {},
    "nghttpd": {"http2/5.1.1/2": "a stream below the last is closed to nghttp2, and what comes on it ignored"},
    "nginx": dict.fromkeys(_NGINX, "forgiven, or answered with 400"),
    "haproxy": {},
}
STRICT = {"nghttpd"}
# Who answers at once may have forgotten the stream when more comes on it: either is right.
RACES = {("haproxy", "http2/6.9/2"), ("haproxy", "http2/6.9.1/3"), ("nginx", "http2/6.9/2"), ("nginx", "http2/6.9.1/3")}
EACH = [
    pytest.param(target, id, marks=parts.needs(*PROGRAMS[target]), id=f"{target}-{id}")
    for target in TARGETS for id in CASES
]  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, parts.Running]]:
    """Each target once, from the first case on."""
    with ExitStack() as stack:

        class Started(dict[str, parts.Running]):
            def __missing__(self, name: str) -> parts.Running:
                self[name] = stack.enter_context(TARGETS[name]())
                return self[name]

        yield Started()


@pytest.mark.parametrize(("target", "id"), EACH)
def test_a_real_server_passes(running: dict[str, parts.Running], target: str, id: str) -> None:
    case = CASES[id]
    if (target, id) in RACES:
        with suppress(AssertionError):
            against(running[target].port, case, wait_s=0.2)
    elif id not in FAILS[target]:
        against(running[target].port, case, strict=target in STRICT)
    else:
        with pytest.raises(AssertionError, match=re.escape(case.id)):
            against(running[target].port, case, wait_s=0.2)


def test_every_case_of_h2spec_has_a_row_and_one_server_that_passes_it() -> None:
    """The 146 of h2spec 2.6, and what its repository has had since."""
    count = Counter(id.split("/")[0] for id in CASES)
    assert count == {"generic": 44, "hpack": 8, "http2": 96}
    for part, sections in SECTIONS.items():
        found = Counter(id.split("/")[1] for id in CASES if id.startswith(part))
        assert found == sections, part
    assert set.intersection(*(set(FAILS[target]) for target in TARGETS)) == set()


SECTIONS = {
    "generic": {
        "1": 1, "2": 5, "3.1": 3, "3.2": 3, "3.3": 5, "3.4": 1, "3.5": 1, "3.7": 1, "3.8": 1, "3.9": 2, "3.10": 2, "4": 4,
        "5": 15,
    },
    "hpack": {"2.3.3": 2, "4.2": 1, "5.2": 3, "6.1": 1, "6.3": 1},
    "http2": {
        "3.5": 2, "4.1": 3, "4.2": 3, "4.3": 3, "5.1": 13, "5.1.1": 3, "5.1.2": 1, "5.3.1": 2, "5.4.1": 2, "5.5": 2,
        "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 3, "6.5": 3, "6.5.2": 5, "6.5.3": 2, "6.7": 4, "6.8": 1, "6.9": 3, "6.9.1": 3,
        "6.9.2": 3, "6.10": 6, "7": 2, "8.1": 1, "8.1.2": 1, "8.1.2.1": 4, "8.1.2.2": 2, "8.1.2.3": 7, "8.1.2.6": 2, "8.2": 1,
    },
}  # fmt: skip
