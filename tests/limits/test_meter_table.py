"""The table of meters under a flood of addresses; addresses and durations."""

from __future__ import annotations

import gc
import ipaddress
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.limits.meter import Meters, address_key

SECOND = 1_000_000
MINUTE = 60 * SECOND


def test_one_name_has_one_meter() -> None:
    table = Meters(10, SECOND, 10, 100)
    meter = table.get("192.0.2.1", 0)
    assert meter.held is True
    meter.take(0, 10)
    assert table.get("192.0.2.1", 0) is meter
    assert table.get("192.0.2.2", 0).left(0) == 10
    assert len(table) == 2


def test_idle_names_leave_while_strangers_come_and_are_not_used_on() -> None:
    table = Meters(10, SECOND, 10, 1000)
    kept = [table.get(f"192.0.2.{n}", 0) for n in range(100)]
    for meter in kept:
        meter.take(0, 10)
    for n in range(50):
        table.get(f"198.51.100.{n}", SECOND).take(SECOND, 1)
    assert not any(meter.held for meter in kept)
    assert len(table) == 50
    again = table.get("192.0.2.0", SECOND)
    assert again is not kept[0]
    assert again.held is True


def test_a_busy_name_stays_however_many_strangers_come() -> None:
    table = Meters(1, MINUTE, 10, 1000)
    busy = table.get("192.0.2.1", 0)
    busy.charge(0, 500)
    for n in range(20_000):
        table.get(f"stranger {n}", n).take(n, 0)
    assert table.get("192.0.2.1", 20_000) is busy
    assert busy.held is True
    assert len(table) <= 3


def test_a_sweep_lets_the_idle_go_and_looks_at_no_more_than_asked() -> None:
    table = Meters(10, SECOND, 10, 1000)
    for n in range(100):
        table.get(str(n), 0).take(0, 10)
    assert table.sweep(0, 1000) == 0
    assert table.sweep(SECOND, 30) == 30
    assert len(table) == 70
    assert table.sweep(SECOND, 1000) == 70
    assert table.sweep(SECOND, 1000) == 0
    assert len(table) == 0


def test_strangers_share_one_meter_where_the_table_is_full() -> None:
    table = Meters(10, SECOND, 10, 2)
    for name in "ab":
        table.get(name, 0).take(0, 5)
    shared = table.get("c", 0)
    assert shared.held is True
    assert table.get("d", 0) is shared
    assert shared.take(0, 10)
    assert not table.get("e", 0).take(0, 1)
    assert table.shared_total == 3
    assert len(table) == 2
    # Known names are not disturbed, and a stranger gets a meter of its own once one of them is idle.
    assert table.get("a", 0).left(0) == 5
    assert table.get("c", SECOND) is not shared
    assert table.sweep(10 * SECOND, 10) == len({"c"})
    assert len(table) == 0
    assert shared.held is True


def test_a_million_addresses_in_turn_leave_a_handful() -> None:
    """1000 a second each, one request each, 100,000 strangers a second: a millisecond's worth of them is held."""
    table = Meters(1000, SECOND, 1000, 1_000_000)
    most = 0
    for n in range(1_000_000):
        now = n * 10
        assert table.get(str(n), now).take(now, 1)
        if not n % 1000:
            most = max(most, len(table))
    assert most <= 250
    assert table.shared_total == 0


def test_a_million_addresses_at_once_stay_within_the_stated_bytes() -> None:
    names = 100_000
    table = Meters(1, MINUTE, 10, names)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(names):
            table.get(f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::/64".ljust(40), 10**15 + n).charge(10**15 + n, 9)
        held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for n in range(1_000_000 - names):
        table.get(str(n), 10**15 + names).take(10**15 + names, 1)
    assert len(table) == names
    assert table.shared_total == 1_000_000 - names
    assert held_bytes / names <= 400
    assert peak_bytes / names <= 400


def test_hosts_of_one_ipv6_network_count_as_one() -> None:
    table = Meters(1000, SECOND, 1000, 1_000_000)
    admitted = 0
    for host in range(20_000):
        address = ipaddress.IPv6Address((0x20010DB800010002 << 64) | (host * 0x9E3779B97F4A7C15 & (1 << 64) - 1))
        admitted += table.get(address_key(str(address)), 0).take(0, 1)
    assert admitted == 1000
    assert len(table) == 1


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::ffff:192.0.2.1%eth0", "192.0.2.1"),
        ("unix", "unix"),
        ("", ""),
        ("[::1]:80", "[::1]:80"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8:9"),
        (":::", ":::"),
        ("::1::", "::1::"),
        ("::%", "::/64"),
    ],
)
def test_what_an_address_is_counted_under(address: str, key: str) -> None:
    assert address_key(address) == key


@given(st.text(alphabet=st.sampled_from("0123456789abcdefg:.%/[]")) | st.text())
def test_junk_for_an_address_never_raises(text: str) -> None:
    assert address_key(text)[:1] == text[:1] or ":" in text


@given(st.integers(0, (1 << 128) - 1))
def test_every_ipv6_address_goes_with_its_64(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    key = address_key(str(address))
    if address.ipv4_mapped is None:
        assert address in ipaddress.IPv6Network(key)
        assert key == address_key(str(ipaddress.IPv6Address(number ^ 0xFFFF)))
    else:
        assert key == str(address.ipv4_mapped)
