"""The system calls on bare descriptors: results, errors, and that what was read stays what it was while somebody has it."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from fastgw.accel import sockets
from fastgw.accel.sockets import keep, recv, send, send_both, send_from, send_last, unacknowledged, unread

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def read(sock: socket.socket, max_bytes: int = 65536) -> bytes:
    """What comes; loopback needs a moment."""
    while True:
        try:
            return recv(sock.fileno(), max_bytes)
        except BlockingIOError:
            pass


def test_what_is_sent_arrives(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        recv(ours.fileno(), 10)
    theirs.sendall(b"hello")
    assert read(ours, 3) == b"hel"
    assert read(ours) == b"lo"
    assert send(ours.fileno(), b"answer") == 6
    assert theirs.recv(10) == b"answer"


def test_the_end_of_one_and_two_in_one_call(pair: Pair) -> None:
    ours, theirs = pair
    fd = ours.fileno()
    for start, sent in ((0, b"answer"), (2, b"swer"), (5, b"r"), (6, b"")):
        assert send_from(fd, b"answer", start) == len(sent)
        assert not sent or theirs.recv(10) == sent
    for start in (-1, 7):
        with pytest.raises(ValueError, match="start is not within data"):
            send_from(fd, b"answer", start)
    for one, two in ((b"head", b"body"), (b"", b"body"), (b"head", b"")):
        assert send_both(fd, one, two) == len(one + two)
        assert theirs.recv(20) == one + two
    for start, sent in ((0, b"headbody"), (1, b"headody"), (4, b"head")):
        assert send_both(fd, b"head", b"body", start) == len(sent)
        assert theirs.recv(20) == sent
    for start in (-1, 5):
        with pytest.raises(ValueError, match="start is not within data"):
            send_both(fd, b"head", b"body", start)
    much = bytes(32 << 20)
    assert 4 < send_both(fd, b"head", much) < len(much)
    with pytest.raises(BlockingIOError):  # noqa: PT012  (the loop is the test)
        while True:
            send_from(fd, much, 1)
    with pytest.raises(BlockingIOError):
        send_both(fd, b"head", b"body")


def test_what_is_sent_last_comes_with_the_end(pair: Pair) -> None:
    ours, theirs = pair
    assert send_last(ours.fileno(), b"the last") == 8
    ours.shutdown(socket.SHUT_WR)
    assert theirs.recv(20) == b"the last"
    assert theirs.recv(20) == b""
    with pytest.raises(BrokenPipeError):
        send_last(ours.fileno(), b"more")


def test_the_end_of_the_stream_is_empty_bytes(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert read(ours) == b""
    assert read(ours) == b""


def test_a_full_buffer_takes_a_part_and_then_blocks(pair: Pair) -> None:
    ours, _ = pair
    data = bytes(1 << 20)
    total = 0
    with pytest.raises(BlockingIOError):  # noqa: PT012  (the loop is the test)
        while total < 1 << 28:
            total += send(ours.fileno(), data)
    assert total
    assert unacknowledged(ours.fileno()) > 0


def test_a_reset_is_a_connection_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with pytest.raises(ConnectionResetError):
        read(ours)
    with pytest.raises(BrokenPipeError):
        send(ours.fileno(), b"x")


def test_no_descriptor_is_an_error_not_a_crash() -> None:
    calls = (lambda: recv(-1, 10), lambda: send(-1, b"x"), lambda: send_from(-1, b"x", 0), lambda: send_both(-1, b"x", b"y"))
    for call in calls:
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
    assert unread(-1) is True, "nobody may reuse such a connection"
    assert unacknowledged(-1) == 0


def test_unread_says_whether_bytes_wait(pair: Pair) -> None:
    ours, theirs = pair
    assert unread(ours.fileno()) is False
    theirs.sendall(b"late")
    while not unread(ours.fileno()):
        pass
    assert read(ours) == b"late"
    assert unread(ours.fileno()) is False


def test_what_somebody_keeps_never_changes(pair: Pair) -> None:
    ours, theirs = pair
    chance = random.Random(5)
    held: list[tuple[bytes, bytes]] = []
    views: list[tuple[memoryview, bytes]] = []
    kept: list[tuple[bytes, bytes]] = []
    names: dict[bytes, bytes] = {}
    for i in range(400):
        sent = bytes([i & 255, 65 + i % 26]) * chance.choice((1, 2, 50, 500, 2000))
        theirs.sendall(sent)
        data = read(ours)
        while len(data) < len(sent):
            data += read(ours)
        assert data == sent
        assert (hash(data), data[-1:], len(data)) == (hash(sent), sent[-1:], len(sent)), "nothing of the last read is left"
        how = i % 6
        if how == 0:
            held.append((data, sent))
        elif how == 1:
            views.append((memoryview(data)[1:], sent[1:]))
        elif how == 2:
            kept.append((keep(data), sent))
        elif how == 3:
            kept.append((keep(data, len(data) // 2), sent[len(data) // 2 :]))
        elif how == 4:
            names[data] = sent
    for got, wanted in (*held, *views, *kept):
        assert got == wanted
    for got, wanted in names.items():
        assert got == wanted
        assert names[bytes(wanted)] == wanted


def test_no_read_sees_another_reads_object(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"first")
    one = read(ours)
    theirs.sendall(b"second")
    two = read(ours)
    assert (one, two) == (b"first", b"second")
    assert one is not two


def test_keep_gives_the_bytes_from_there_on(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abcdef")
    data = read(ours)
    assert keep(data) == b"abcdef"
    assert keep(data, 2) == b"cdef"
    assert keep(data, 6) == b""
    own = b"not from a read"
    assert keep(own) is own


def test_residues_are_counted(pair: Pair) -> None:
    ours, theirs = pair
    sockets.reset_counters()
    theirs.sendall(b"abcdef")
    data = read(ours)
    assert (sockets.counters()["copies"], sockets.counters()["copied_bytes"]) == (0, 0), "reading copies nothing"
    keep(data, 2)
    assert (sockets.counters()["copies"], sockets.counters()["copied_bytes"]) == (1, 4)
    sockets.reset_counters()
    assert set(sockets.counters().values()) == {0}


@pytest.mark.both_twins
def test_reads_that_nobody_keeps_take_no_memory_and_kept_ones_no_more_than_they_need(pair: Pair) -> None:
    ours, theirs = pair
    read_one = b"x" * 200
    kept = []
    theirs.sendall(read_one)
    assert read(ours) == read_one  # (whoever has the last test's)
    sockets.reset_counters()
    for _ in range(50):
        theirs.sendall(read_one)
        data = read(ours)  # the last one's name is still bound while the next is read
        assert data == read_one
    del data
    assert sockets.counters()["buffers"] == 0
    assert sockets.counters()["receives"] == 50
    for _ in range(50):
        theirs.sendall(read_one)
        kept.append(keep(read(ours)))
    counted = sockets.counters()
    assert (counted["buffers"], counted["copies"], counted["copied_bytes"]) == (0, 50, 10_000)
    for _ in range(5):
        theirs.sendall(read_one)
        kept.append(read(ours))
    assert sockets.counters()["buffers"] == 3, "an object that somebody has is left to them; there were two"
    assert set(kept) == {read_one}
