"""The small parts: which twin runs, digests, estimates, bound system calls."""

from __future__ import annotations

import hashlib
import socket

import pytest

from fastgw import accel
from fastgw.accel.hashing import DIGEST_BYTES, digest
from fastgw.accel.sockets import receiver, sender
from fastgw.accel.tokens import estimate


@pytest.mark.parametrize("mode", ["auto", "0"])
def test_the_python_twin_is_always_there(mode: str) -> None:
    assert accel.select(mode) == "python"
    assert accel.NATIVE is False


def test_insisting_on_a_missing_extension_fails_loudly() -> None:
    with pytest.raises(ImportError, match="native extension"):
        accel.select("1")


@pytest.mark.parametrize("mode", ["", "yes", "native", "2"])
def test_other_modes_are_mistakes(mode: str) -> None:
    with pytest.raises(ValueError, match="FASTGW_NATIVE"):
        accel.select(mode)


def test_digest() -> None:
    assert digest(b"sk-1") == hashlib.sha256(b"sk-1").digest()
    assert len(digest(b"")) == DIGEST_BYTES


@pytest.mark.parametrize(("nbytes", "tokens"), [(0, 0), (-1, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_estimate(nbytes: int, tokens: int) -> None:
    assert estimate(nbytes) == tokens


def test_bound_calls_work_on_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        recv, send = receiver(ours), sender(ours)
        with pytest.raises(BlockingIOError):
            recv(10)
        theirs.send(b"hello")
        assert recv(10) == b"hello"
        assert send(b"answer") == 6
        assert theirs.recv(10) == b"answer"
