"""Rate meters: exact GCRA in whole numbers, for requests and tokens, and a table of them by client address.

Owns: :class:`Meter`, the continuous-state leaky bucket of ITU-T I.371 and ATM Forum TM 4.0 (the same decisions as their
virtual scheduling form), :class:`Meters`, and under which name an address is counted. Never asks for the time: each call
is told it, in whole microseconds of a monotonic clock.

Invariant: ``debt`` is what was taken and has not yet decayed, in units times ``period_us``, so that each microsecond pays
off ``rate`` of it and nothing is ever rounded. 0 <= debt <= 9 * 10**18: every sum fits a signed 64-bit number. A meter's
own time never runs back: a call that is told an earlier time than the latest one counts as made at the latest one, so that
no microsecond pays twice and no debt is lost.

**Given back is what has not decayed already.** Had ``x`` units less been taken at ``t``, the debt would be lower now by ``x``,
or by the least debt that there has been since ``t``, if that is less: what was there to decay has decayed either way (a leaky
bucket is a path reflected at zero; Skorokhod, "Stochastic Equations for Diffusion Processes in a Bounded Region", 1961). More
than that would be units saved up, to be taken beyond the burst. So while something may come back (``open``), ``lows`` has
the least debt since each moment that matters (see there).
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final

from fastgw.limits.lows import NONE, Lows
from fastgw.limits.promises import CROWD_S, NARROW, NEWCOMERS, Promises
from fastgw.limits.shared import Record

MAX_RATE: Final = 10**11
"""The largest rate, in units per period."""

MAX_CAPACITY: Final = 6 * 10**18
"""The largest ``burst * period_us``: 10**11 units for a period of a minute."""

MAX_DEBT_PERIODS: Final = 60
"""What is charged beyond the burst is forgotten where it would take more periods than this to pay off: an hour for limits
per minute. One false figure of an engine must not lock a client out for a day."""

METER_WORDS: Final = 8 + 2 * 16
"""What :meth:`Meter.save` writes at most."""

REMEMBERED_ADDRESSES: Final = 1024
"""Of which it is known under what they are counted."""

# The compiled twin has these as C numbers.
_debt_periods: Final = MAX_DEBT_PERIODS
_most_debt: Final = 9_000_000_000_000_000_000
_none: Final = NONE
_narrow_us: Final = CROWD_S * 1e6
_shared_lows: Final = 16  # (what :data:`METER_WORDS` has room for)


class Past:
    """What a meter has to remember beside its debt, once something of it may come back, its limit was lowered, or somebody was
    told to wait; most meters never do.

    ``open``: how many times something was taken that may come back. ``lows``: see the head of this file. ``beyond``: what is
    owed under a limit that was lowered (at ``lowered_us``), more than it may lock out for: it comes back with the old limit,
    and decays after the debt.
    """

    __slots__ = ("beyond", "lowered_us", "lows", "open", "promises")

    def __init__(self) -> None:
        self.beyond = 0
        self.lowered_us = 0
        self.open = 0
        self.lows: Lows | None = None
        self.promises: Promises | None = None

    def forget(self) -> None:
        """Nothing may come back any more."""
        if self.lows is not None:
            self.lows.clear()


class Meter:
    """``rate`` units per ``period_us``, and ``burst`` units at once.

    ``held``: it is in a :class:`Meters` table. ``since_us``: since when there has been a debt. ``record``: where other
    processes have it, of one in such a table. ``cost`` is in whole units everywhere, 0 to 2**62.

    :raises ValueError: for limits beyond ``1 <= rate <= MAX_RATE``, ``burst >= 1``, ``period_us >= 1`` or
        ``burst * period_us <= MAX_CAPACITY``, and from the methods for a negative cost.
    """

    __slots__ = ("at_us", "burst", "debt", "held", "past", "period_us", "rate", "record", "since_us")

    def __init__(self, rate: int, period_us: int, burst: int) -> None:
        _check(rate, period_us, burst)
        self.rate = rate
        self.period_us = period_us
        self.burst = burst
        self.debt = 0
        self.at_us = 0
        self.since_us = 0
        self.held = False
        self.past: Past | None = None
        self.record: Record | None = None

    def take(self, now_us: int, cost: int) -> bool:
        """Take ``cost`` units, all or none. False = nothing was taken."""
        if cost < 0:
            raise ValueError("a negative cost")
        if now_us > self.at_us:
            self._pay(now_us)
        # Products only of costs that fit the burst, and a difference on the right: no sum can pass 64 bits.
        if cost > self.burst or cost * self.period_us > self.burst * self.period_us - self.debt:
            return False
        past = self.past
        if past is not None and past.open:
            self._mark(past)
        if self.debt == 0:
            self.since_us = self.at_us
        self.debt += cost * self.period_us
        return True

    def hold(self) -> None:
        """What was taken just now may come back: :meth:`settle` is called once for it."""
        past = self.past
        if past is None:
            past = self.past = Past()
        past.open += 1

    def settle(self, now_us: int, since_us: int, taken: int, used: int) -> None:
        """The end of what was held since ``since_us``: of ``taken`` units ``used`` were used.

        What was used beyond is charged; what was not used comes back, as far as it has not decayed already. Nothing
        comes back to a meter that holds nothing: it was taken from another.
        """
        if taken < 0 or used < 0:
            raise ValueError("a negative cost")
        past = self.past
        holds = past is not None and past.open
        if past is not None and holds:
            past.open -= 1
        if used > taken:
            self.charge(now_us, used - taken)
        elif past is not None and holds:
            if used < taken:
                self._return(past, now_us, since_us, taken - used)
            if not past.open:
                past.forget()

    def wait_us(self, now_us: int, cost: int) -> int:
        """The smallest wait after which :meth:`take` succeeds if nobody else takes; 0 = now, -1 = never (above the burst)."""
        if cost < 0:
            raise ValueError("a negative cost")
        if cost > self.burst:
            return -1
        if now_us > self.at_us:
            self._pay(now_us)
        short = self.debt - (self.burst - cost) * self.period_us
        if short <= 0:
            return 0
        return self.at_us - now_us + (short - 1) // self.rate + 1

    def told_s(self, now_us: int, cost: int, chance: float) -> float:
        """Seconds that one who was refused ``cost`` units is told to wait; -1.0 = for ever. See :class:`Promises`."""
        word_us = self.wait_us(now_us, cost)
        if word_us < 0:
            return -1.0
        past = self.past
        if past is None:
            past = self.past = Past()
        promises = past.promises
        if promises is None:
            narrow = self.burst * self.period_us < _narrow_us * self.rate
            promises = past.promises = Promises(NARROW if narrow else NEWCOMERS)
        each_s = cost / self.rate * (self.period_us / 1e6)
        return promises.told(now_us / 1e6, word_us / 1e6, each_s, chance, (self.at_us - self.since_us) / 1e6)

    def give(self, now_us: int, cost: int) -> None:
        """Undo a :meth:`take` of the same microsecond. Never makes a meter better than a new one."""
        if cost < 0:
            raise ValueError("a negative cost")
        if now_us > self.at_us:
            self._pay(now_us)
        if cost > self.debt // self.period_us:
            self.debt = 0
        else:
            self.debt -= cost * self.period_us

    def charge(self, now_us: int, cost: int) -> None:
        """Take units without asking: more was used than had been taken. See :data:`MAX_DEBT_PERIODS`."""
        if cost < 0:
            raise ValueError("a negative cost")
        if now_us > self.at_us:
            self._pay(now_us)
        past = self.past
        if past is not None and past.open:
            self._mark(past)
        if self.debt == 0:
            self.since_us = self.at_us
        most = self._most()
        if cost > (most - self.debt) // self.period_us:
            self.debt = most
        else:
            self.debt += cost * self.period_us

    def left(self, now_us: int) -> int:
        """Whole units that could be taken now."""
        if now_us > self.at_us:
            self._pay(now_us)
        room = self.burst * self.period_us - self.debt
        return room // self.period_us if room > 0 else 0

    def reset_us(self, now_us: int) -> int:
        """How long until it is as a new one, if nobody takes."""
        if now_us > self.at_us:
            self._pay(now_us)
        if not self.debt:
            return 0
        return self.at_us - now_us + (self.debt - 1) // self.rate + 1

    def idle(self, now_us: int) -> bool:
        """Whether it decides as a new one would, so that nothing is lost when it is forgotten."""
        if now_us > self.at_us:
            self._pay(now_us)
        return self.debt == 0 and (self.past is None or self.past.beyond == 0)

    def change(self, rate: int, burst: int, now_us: int) -> None:
        """New limits for a meter in use; the period stays.

        Units taken stay taken, and decay at the new rate from now on: it never admits more than a new one would. What is owed
        beyond :data:`MAX_DEBT_PERIODS` of the new limits is set aside, until these are raised again.

        :raises ValueError: as the constructor does; nothing has changed then.
        """
        _check(rate, self.period_us, burst)
        if now_us > self.at_us:
            self._pay(now_us)
        if self.past is not None:
            self.past.promises = None  # they were made of the old limits
        self.rate = rate
        self.burst = burst
        self._part()

    def _part(self) -> None:
        """What is owed, into what these limits may lock out for and what is set aside. To do it twice does no harm."""
        past = self.past
        if past is not None:
            self.debt += past.beyond
            past.beyond = 0
        most = self._most()
        if self.debt > most:
            if past is None:
                past = self.past = Past()
            past.beyond = min(self.debt - most, _most_debt - most)
            past.lowered_us = self.at_us
            self.debt = most

    def save(self, words: memoryview[int], at: int) -> None:
        """Write there what other processes have to know of it: what was taken, by which limits."""
        words[at] = self.debt
        words[at + 1] = self.at_us
        words[at + 2] = self.since_us
        words[at + 5] = self.rate
        words[at + 6] = self.burst
        past = self.past
        words[at + 3] = words[at + 4] = words[at + 7] = 0
        if past is not None:
            words[at + 3] = past.beyond
            words[at + 4] = past.lowered_us
            if past.open and past.lows is not None:
                words[at + 7] = past.lows.save(words, at + 8, _shared_lows)

    def load(self, words: memoryview[int], at: int, open_: int) -> None:
        """Go on from what was written there, by the limits of its own; so many things are out that may come back."""
        self.debt = words[at]
        self.at_us = words[at + 1]
        self.since_us = words[at + 2]
        past = self.past
        if past is None and (open_ or words[at + 3]):
            past = self.past = Past()
        if past is not None:
            past.beyond = words[at + 3]
            past.lowered_us = words[at + 4]
            past.open = open_
            count = words[at + 7]
            if open_ and count:
                if past.lows is None:
                    past.lows = Lows()
                past.lows.load(words, at + 8, count)
            else:
                past.forget()
        if words[at + 5] != self.rate or words[at + 6] != self.burst:
            self._part()

    def _pay(self, now_us: int) -> None:
        """Let the debt decay until now, which is later than it was. (Whoever calls it has looked whether it is: of all the
        calls for one request most are of the same moment.)"""
        elapsed = now_us - self.at_us
        self.at_us = now_us
        past = self.past
        if past is not None and past.beyond:
            self._pay_all(past, elapsed)
        elif self.debt:
            # Asked by division: a day's elapsed time multiplied by the rate would not fit.
            if elapsed > self.debt // self.rate:
                self.debt = 0
            else:
                self.debt -= elapsed * self.rate

    def _pay_all(self, past: Past, elapsed: int) -> None:
        """The same where something was set aside: it decays when there is no debt left to."""
        if elapsed > (self.debt + past.beyond) // self.rate:
            self.debt = 0
            past.beyond = 0
            return
        paid = elapsed * self.rate
        if paid <= self.debt:
            self.debt -= paid
        else:
            past.beyond -= paid - self.debt
            self.debt = 0

    def _mark(self, past: Past) -> None:
        """The debt is about to grow: so low it was."""
        lows = past.lows
        if lows is None:
            lows = past.lows = Lows()
        lows.mark(self.at_us, self.debt)

    def _return(self, past: Past, now_us: int, since_us: int, cost: int) -> None:
        """Lower the debt as if ``cost`` units less had been taken at ``since_us``. See the head of this file."""
        if now_us > self.at_us:
            self._pay(now_us)
        back = _most_debt
        if cost < back // self.period_us:
            back = cost * self.period_us
        lows = past.lows
        low = _none
        if lows is not None:
            low = lows.least(since_us)
            if low >= 0:
                back = min(back, low)
        aside = 0
        if past.beyond and since_us < past.lowered_us:
            # It was taken before the limit was lowered, and is among what was set aside then.
            aside = min(back, past.beyond)
            past.beyond -= aside
        back = min(back - aside, self.debt)
        self.debt -= back
        back += aside
        if lows is not None and low >= 0 and back:
            lows.lower(since_us, back)

    def _most(self) -> int:
        """The largest debt: the burst, and what :data:`MAX_DEBT_PERIODS` pay off, or what fits."""
        beyond = (_most_debt - self.burst * self.period_us) // self.period_us
        return (self.burst + min(beyond, _debt_periods * self.rate)) * self.period_us


class Meters:
    """Meters by name (client addresses), all with the same limits; at most ``max_entries`` are held.

    A name's meter leaves once it is idle, and nothing is lost by that. Each new name pays for a look at the two that were
    not looked at for longest, and :meth:`sweep` does the same from a timer; so what is held is what was busy lately. Where
    the table is full and none of the two is idle, a stranger gets one meter that all such strangers share: memory
    is bounded, known clients are not disturbed, and a flood of addresses is limited as one client. Counted in
    ``shared_total``. At most 400 bytes per held name, the name of up to 40 characters included.

    Whoever keeps a :class:`Meter` uses it only while its ``held`` is true, and else calls :meth:`get` again. The shared one
    stays ``held``, so who has it keeps it.

    :raises ValueError: as :class:`Meter` does, and for ``max_entries`` below 1.
    """

    __slots__ = ("_held", "_order", "_shared", "burst", "max_entries", "period_us", "rate", "shared_total")

    def __init__(self, rate: int, period_us: int, burst: int, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError("max_entries must be at least 1")
        self._shared = Meter(rate, period_us, burst)
        self._shared.held = True
        self.rate = rate
        self.period_us = period_us
        self.burst = burst
        self.max_entries = max_entries
        self.shared_total = 0
        self._held: dict[str, Meter] = {}
        self._order: deque[str] = deque()  # the names of _held, the one looked at longest ago first

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: str, now_us: int) -> Meter:
        """The meter of ``name``; made where there is none."""
        meter = self._held.get(name)
        if meter is not None:
            if meter.rate != self.rate or meter.burst != self.burst:
                meter.change(self.rate, self.burst, now_us)
            return meter
        self.sweep(now_us, 2)
        if len(self._held) >= self.max_entries:
            self.shared_total += 1
            return self._shared
        meter = Meter(self.rate, self.period_us, self.burst)
        meter.held = True
        self._held[name] = meter
        self._order.append(name)
        return meter

    def crowd(self, meter: Meter) -> bool:
        """Whether it is the one that all share for whom there is no room."""
        return meter is self._shared

    def names(self) -> list[str]:
        """Whose are held."""
        return list(self._held)

    def change(self, rate: int, burst: int, now_us: int) -> None:
        """New limits for all: for the shared one now, for each other when it is next asked for (:meth:`Meter.change`). Whoever
        keeps one calls :meth:`get` again.

        :raises ValueError: as :class:`Meter` does; nothing has changed then.
        """
        self._shared.change(rate, burst, now_us)
        self.rate = rate
        self.burst = burst

    def sweep(self, now_us: int, most: int) -> int:
        """Look at the ``most`` names not looked at for longest, and let the idle ones go. Returns how many went."""
        order = self._order
        gone = 0
        for _ in range(min(most, len(order))):
            name = order.popleft()
            meter = self._held[name]
            if meter.idle(now_us):
                del self._held[name]
                meter.held = False
                gone += 1
            else:
                order.append(name)
        return gone


def _check(rate: int, period_us: int, burst: int) -> None:
    if not 1 <= rate <= MAX_RATE:
        raise ValueError(f"a rate must be 1 to {MAX_RATE}, not {rate}")
    if period_us < 1:
        raise ValueError(f"a period must be at least 1 µs, not {period_us}")
    if not 1 <= burst <= MAX_CAPACITY // period_us:
        raise ValueError(f"a burst must be 1 to {MAX_CAPACITY // period_us} for a period of {period_us} µs, not {burst}")


@lru_cache(REMEMBERED_ADDRESSES)
def address_key(ip: str) -> str:
    """What an address is counted under: an IPv4 address as it is, an IPv6 address as its /64, the part that one subscriber
    has (RFC 6177 §2; the last 64 bits are the host's own choice, RFC 4291 §2.5.1).

    An IPv4-mapped IPv6 address is the IPv4 address; a zone (``%eth0``) is left out. Any other text (``unix``) comes back as
    it is. The addresses seen last are remembered: IPv6 takes some microseconds.
    """
    if ":" not in ip:
        return ip
    from ipaddress import IPv6Address  # a millisecond of the start, and nothing at its second time

    try:
        address = IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    mapped = address.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
