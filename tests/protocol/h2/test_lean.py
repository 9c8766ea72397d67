"""What we rely on in the ``h2`` package: a release that differs fails here, before it does in a connection."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hyperframe.frame import Frame, SettingsFrame

from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.frames import H2Error
from fastgw.protocol.h2.lean import CLIENT_SETTINGS, MOST_SETTINGS, UNLIMITED, Control


def begun() -> Control:
    control = Control(True, CLIENT_SETTINGS)
    control.begin()
    return control


def test_it_begins_with_the_preface_and_our_settings() -> None:
    said = Control(True, CLIENT_SETTINGS).begin()
    assert said.startswith(h2.PREFACE)
    frame, size = Frame.parse_frame_header(memoryview(said[24:33]))
    assert isinstance(frame, SettingsFrame)
    frame.parse_body(memoryview(said[33:]))
    assert size == len(said) - 33
    assert frame.settings[h2.HEADER_TABLE_SIZE] == 0
    assert frame.settings[h2.ENABLE_PUSH] == 0
    assert frame.settings[h2.MAX_HEADER_LIST_SIZE] == 65536
    assert frame.settings.get(h2.INITIAL_WINDOW_SIZE, 65535) == 65535
    assert frame.settings.get(h2.MAX_FRAME_SIZE, 16384) == 16384


def test_settings_of_the_peer() -> None:
    control = begun()
    assert (control.most_streams(), control.window(), control.takes_connect()) == (UNLIMITED, 65535, False)
    assert control.take(h2.settings({h2.MAX_CONCURRENT_STREAMS: 7, h2.INITIAL_WINDOW_SIZE: 100})) == h2.SETTINGS_ACK
    assert (control.most_streams(), control.window()) == (7, 100)
    assert control.take(h2.settings({h2.ENABLE_CONNECT_PROTOCOL: 1})) == h2.SETTINGS_ACK
    assert (control.most_streams(), control.window(), control.takes_connect()) == (7, 100, True)
    assert control.take(h2.settings({h2.MAX_CONCURRENT_STREAMS: 2**32 - 1, 0xABCD: 5})) == h2.SETTINGS_ACK
    assert control.most_streams() == UNLIMITED
    assert control.take(h2.SETTINGS_ACK) == b""


def test_settings_that_mean_nothing_are_acknowledged_and_not_kept() -> None:
    control = begun()
    tracemalloc.start()
    for first in range(0x100, 0x2000, MOST_SETTINGS):
        numbers = range(first, first + MOST_SETTINGS)
        assert control.take(h2.settings(dict.fromkeys(numbers, first))) == h2.SETTINGS_ACK
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    most = {h2.MAX_CONCURRENT_STREAMS: 9} | dict.fromkeys(range(0x100, 0x100 + MOST_SETTINGS - 1), 1)
    assert control.take(h2.settings(most)) == h2.SETTINGS_ACK
    assert control.most_streams() == 9


def test_pings_both_ways() -> None:
    control = begun()
    assert control.take(h2.ping(b"abcdefgh")) == h2.ping(b"abcdefgh", ack=True)
    assert control.take(h2.header(8, h2.PING, h2.ACK, 1 << 31) + b"12345678") == b""  # (the reserved bit: §4.1)
    assert control.pings == [b"12345678"]


@pytest.mark.parametrize(("frame", "code"), [
    (h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 31}), h2.FLOW_CONTROL_ERROR),
    (h2.settings({h2.MAX_FRAME_SIZE: 1}), h2.PROTOCOL_ERROR),
    (h2.settings({h2.ENABLE_PUSH: 2}), h2.PROTOCOL_ERROR),
    (h2.header(5, h2.SETTINGS, 0, 0) + b"12345", h2.FRAME_SIZE_ERROR),
    (h2.header(6, h2.SETTINGS, h2.ACK, 0) + bytes(6), h2.FRAME_SIZE_ERROR),
    (h2.header(0, h2.SETTINGS, 0, 1), h2.PROTOCOL_ERROR),
    (h2.header(6, h2.SETTINGS, 0, 1) + b"\0\5\0\0\x40\0", h2.PROTOCOL_ERROR),
    (h2.settings(dict.fromkeys(range(0x100, 0x100 + MOST_SETTINGS + 1), 1)), h2.ENHANCE_YOUR_CALM),
    (h2.header(6 * 40, h2.SETTINGS, 0, 0) + b"\0\4\0\0\xff\xff" * 40, h2.ENHANCE_YOUR_CALM),
    (h2.header(7, h2.PING, 0, 0) + bytes(7), h2.FRAME_SIZE_ERROR),
    (h2.header(8, h2.PING, 0, 3) + bytes(8), h2.PROTOCOL_ERROR),
])  # fmt: skip
def test_what_breaks_the_protocol(frame: bytes, code: int) -> None:
    control = begun()
    with pytest.raises(H2Error) as raised:
        control.take(frame)
    assert raised.value.code == code


def test_a_server_has_its_own_side() -> None:
    control = Control(False, {h2.HEADER_TABLE_SIZE: 0, h2.MAX_CONCURRENT_STREAMS: 100})
    assert not control.begin().startswith(h2.PREFACE)


def test_what_stays_of_it_is_small_and_goes_on_as_before() -> None:
    """(The size is that of 64-bit CPython; ``h2``'s own connection has 15 kB.)"""
    def done() -> Control:
        control = begun()
        control.take(h2.settings({h2.MAX_CONCURRENT_STREAMS: 7, h2.INITIAL_WINDOW_SIZE: 100, 0xABCD: 5}))
        assert control.take(h2.SETTINGS_ACK) == b""
        return control

    done()
    tracemalloc.start()
    kept = [done() for _ in range(20)]
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert size < 2000, size
    control = kept[0]
    assert (control.most_streams(), control.window(), control.takes_connect()) == (7, 100, False)
    assert control.take(h2.ping(b"abcdefgh")) == h2.ping(b"abcdefgh", ack=True)
    assert control.take(h2.settings({h2.ENABLE_CONNECT_PROTOCOL: 1})) == h2.SETTINGS_ACK
    assert control.take(h2.settings({h2.INITIAL_WINDOW_SIZE: 200})) == h2.SETTINGS_ACK
    assert (control.most_streams(), control.window(), control.takes_connect()) == (7, 200, True)
    assert control.take(h2.SETTINGS_ACK) == b""
    with pytest.raises(H2Error):
        control.take(h2.settings({h2.MAX_FRAME_SIZE: 1}))
