"""One engine as the data plane sees it: addresses, constant request parts, health, counters.

Owns: the mutable state of an engine that outlives table snapshots. Health is a verdict of probes and of dials
(``health.py`` judges); routing only reads ``healthy``.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fastgw.accel.histograms import Histogram
from fastgw.config import EngineConfig
from fastgw.config.address import TUNNELS
from fastgw.limits.breaker import ALL, CLOSED, NO, Breaker, spares
from fastgw.limits.slots import at_hand
from fastgw.net.clock import monotonic
from fastgw.net.wire import Address
from fastgw.protocol.gauges import Gauges
from fastgw.upstream.kinds.kind import ANY, Kind
from fastgw.upstream.kinds.registry import kind_of
from fastgw.upstream.models import Facts, ModelFacts
from fastgw.upstream.times import FIRST_TOKEN, PER_TOKEN
from fastgw.upstream.watch import Watch

if TYPE_CHECKING:
    from fastgw.net.certificates import Believed

ANYTHING: Final = "*"
"""Among the models of an engine: it takes whatever nobody is known to serve."""
MOST_QUEUED: Final = 1 << 20
"""Requests that an engine is believed to have from others."""


class Engine:
    """An engine and what is known of it."""

    __slots__ = (
        "addresses",
        "aliases",
        "answered_total",
        "api_key_line",
        "away",
        "base",
        "beside",
        "breaker",
        "cancel",
        "configured_cancel",
        "configured_max_idle",
        "configured_models",
        "crowded",
        "discovered_models",
        "disowned",
        "draining",
        "ejected_by",
        "ejected_until",
        "ejections_total",
        "facts",
        "failures",
        "failures_total",
        "features",
        "first_tokens",
        "fleeting",
        "gaps",
        "gauges",
        "gpus",
        "gradient",
        "h2",
        "head_block",
        "healthy",
        "held",
        "host",
        "idle_files",
        "inflight",
        "kind",
        "label",
        "light",
        "literal",
        "machine",
        "max_concurrent",
        "max_connections",
        "max_idle",
        "name",
        "port",
        "probe_paths",
        "probed_at",
        "protocol",
        "queued",
        "ramp",
        "rests_until",
        "secure",
        "secure_h2",
        "served_at",
        "served_name",
        "slots",
        "strict",
        "takes_any",
        "tenant",
        "truncations_total",
        "tunnelled",
        "unix_path",
        "version",
        "warm_connections",
        "watch",
        "weight",
        "words",
    )

    def __init__(
        self,
        config: EngineConfig,
        cb_threshold: int = 0,
        cb_recovery_s: float = 30.0,
        max_idle: int | None = None,
        idle_files: int = ANY,
    ) -> None:
        """``max_idle``: idle connections that are kept, None = by the kind; ``idle_files``: descriptors that there are for
        them. Raises ``net.certificates.TlsError`` where its CA file or certificate cannot be used."""
        address = config.address
        self.name = config.name
        self.label = config.name.encode()
        self.idle_files = idle_files
        self.host = address.host
        self.port = address.port
        self.unix_path = address.unix_path
        self.protocol = config.protocol or "auto"
        self.secure: Believed | None = None  # how TLS is spoken with it; None = not at all
        self.secure_h2: Believed | None = None  # the same, where HTTP/2 may be agreed on
        if address.secure:
            # (Imported here: OpenSSL takes four megabytes, and as many milliseconds.)
            from fastgw.net.certificates import believed

            name = config.server_name or address.host
            self.secure = believed(name, config.ca_file, config.cert_file, config.key_file, config.verify is not False)
            if self.protocol != "h1":
                self.secure_h2 = self.secure.for_h2()
        # People paste the SDK's base_url; the endpoints bring their own /v1.
        self.base = address.base.removesuffix("/v1").encode()
        self.discovered_models: tuple[str, ...] = ()
        self.facts: Facts = {}  # what it says of its models itself
        self.max_concurrent = -1
        self.kind = kind_of(config.kind)
        self.h2 = self.protocol == "h2"  # it speaks HTTP/2, as configured or as it has shown
        self.change(config, max_idle)
        self.addresses: tuple[Address, ...] = self._literal()
        self.literal = bool(self.addresses)  # nothing to look up, ever
        self.breaker = Breaker(cb_threshold, cb_recovery_s)
        self.aliases: dict[str, str] = {}  # of models that it serves: their names there
        self.fleeting = False  # it may be gone at any moment: what it has not begun to answer is asked elsewhere then
        self.tunnelled = address.host.endswith(TUNNELS)  # nobody dials it: its runner has, and requests go there
        self.away = False  # the connection over which it is asked has broken, and may be there again in a moment
        self.draining = False  # it takes no new requests: the operator wants it empty (the fleet)
        self.words: tuple[tuple[float, str], ...] = ()  # until when it has told whom to wait: the two latest, the latest last
        self.disowned = False  # its runner says that it is not well, and no probe outweighs that
        self.healthy: bool | None = None  # None = not yet known: worth trying
        self.failures = 0
        self.probed_at = 0.0
        self.served_at = -1e9  # when it last did what a request asked of it
        self.inflight = 0
        self.light = 0  # of those, the ones that take no place
        self.beside: tuple[Engine, ...] = ()  # that ends what it has on the same machine, or whose place it takes there
        self.queued = 0  # requests that wait in it, as it says itself, and are not under way here
        self.crowded = False  # more wait in it, by its own figures, than it needs at hand
        self.gauges: Gauges | None = None  # what it says of its load, where it is asked (the scheduler)
        self.held = False  # it is held back, by one of the next three
        self.ejected_until = 0.0  # it is asked only where nobody else is left
        self.ejected_by = ALL  # whose is what it is ejected for, and then it is for those alone
        self.rests_until = 0.0  # the same: it has asked for that itself, and is believed
        self.ramp = 0  # no more requests may be under way there while it is new, 0 = as many as it takes
        self.watch: Watch | None = None  # what calls tell of it, where somebody wants to know
        # How long it takes from when it has a request to the first token, and between pieces of text. (The hot path adds.)
        self.first_tokens = Histogram(FIRST_TOKEN)
        self.gaps = Histogram(PER_TOKEN)
        self.answered_total = 0
        self.failures_total = 0
        self.truncations_total = 0
        self.ejections_total = 0

    def __repr__(self) -> str:
        return f"<Engine {self.name} healthy={self.healthy} inflight={self.inflight}>"

    def change(self, config: EngineConfig, max_idle: int | None) -> None:
        """Go by ``config``, which has its address and its kind: what is known of it, and under way there, goes on."""
        self.api_key_line = b"Authorization: Bearer %b\r\n" % config.api_key.encode() if config.api_key else b""
        self.head_block = b"Host: %b\r\n" % (config.authority or config.address.authority).encode() + self.api_key_line
        if config.rank >= 0:
            self.head_block += b"%b: %d\r\n" % (self.kind.rank_header, config.rank)
        self.serves(config.models)
        self.served_name = config.served_name
        self.weight = config.weight
        self.machine = config.machine
        self.gpus = tuple(config.gpus)
        self.features = frozenset(config.features)
        self.version = config.version
        self.tenant = config.tenant
        self.strict = config.stream_end != "pass"
        self.configured_cancel = config.cancel
        self.configured_max_idle = max_idle
        self.warm_connections = config.warm_connections
        self.max_connections = config.max_connections
        self.become(self.kind)
        self.probe_paths = (config.health_path.encode(),) if config.health_path else self.kind.probe_paths
        if config.max_concurrent != self.max_concurrent:
            self.max_concurrent = config.max_concurrent
            self.slots = config.max_concurrent  # requests that may be under way here, 0 = no limit; the scheduler moves it
            self.gradient: Any = None  # the scheduler's, where an engine shows no gauges of its own

    def serves(self, models: Sequence[str]) -> None:
        """These are its models, as it is configured; none = those that it says itself. :data:`ANYTHING` is no model."""
        self.takes_any = ANYTHING in models
        self.configured_models = frozenset([model for model in models if model != ANYTHING])

    def judges(self) -> bool:
        """Whether it is asked for what nobody is known to serve, and judges the name itself: where it is said to take
        anything, or nobody, it itself neither, has said what it serves."""
        return self.takes_any or not (self.configured_models or self.discovered_models)

    def become(self, kind: Kind) -> None:
        """It is of this kind: as configured, or as its own list of models has told."""
        self.kind = kind
        self.cancel = kind.cancel if self.configured_cancel is None else self.configured_cancel
        max_idle = kind.max_idle if self.configured_max_idle is None else self.configured_max_idle
        self.max_idle = max(min(max_idle, self.idle_files), self.warm_connections)

    def facts_of(self, model: str) -> ModelFacts | None:
        """What it says of a model, by whichever name that is asked for."""
        name = self.served_name or model
        name = self.aliases.get(name, name)
        found = self.facts.get(name)
        if found is None:
            for one in self.facts.values():
                if name in one.aliases:
                    return one
        return found

    def came_back(self) -> None:
        """It is there again, as others than its requests have seen: its breaker is told."""
        self.breaker.answered()

    def doubted(self) -> bool:
        """Whether one caller's word alone keeps requests from it, or one model's lack, until another is asked for
        (:meth:`hears`)."""
        return self.ejected_by != ALL or (self.breaker.state != CLOSED and self.breaker.whose != ALL)

    def hears(self, caller: str, model: str) -> bool:
        """``caller`` asks for ``model``. Whether he has it open to all again: what one other alone got kept them from it."""
        heard = self.breaker.hears(caller, model)
        if spares(self.ejected_by, caller, model):
            self.ejected_by = ALL
            self.ejected_until = 0.0
            self.held = self.ramp > 0 or self.rests()
            heard = True
        return heard

    def usable(self) -> bool:
        """Whether a request may go there now: it is well, its breaker lets one through, and it has room."""
        if self.healthy is False or (self.slots and self.under_way() >= self.slots):
            return False
        return self.permitted() and (not self.held or self.let_go())

    def last_resort(self) -> bool:
        """Whether it may be tried although it is not well, or held back, because nobody else is left."""
        if self.away or not (self.healthy is False or self.held):
            return False
        return not (self.slots and self.under_way() >= self.slots) and self.permitted()

    def let_go(self) -> bool:
        """Whether one that is held back may have a request more."""
        if self.ejected_until or self.rests_until:
            now = monotonic()
            if now < self.ejected_until or now < self.rests_until:
                return False
            self.ejected_until = self.rests_until = 0.0
            self.held = self.ramp > 0
        return not self.ramp or self.inflight - self.light < self.ramp

    def under_way(self) -> int:
        """Places that are taken on its machine from here: by its own requests, and those of whoever leaves there, or comes in
        its place."""
        count = self.inflight - self.light
        for other in self.beside:
            count += other.inflight - other.light
        return count

    def joins(self, other: Engine) -> None:
        """It takes the place of ``other``, which ends what it has, on the same machine: its slots are for both."""
        if other not in self.beside:
            self.beside = (*self.beside, other)
            other.beside = (*other.beside, self)

    def parts(self) -> None:
        """It has gone, and has nothing under way any more."""
        for other in self.beside:
            other.beside = tuple([one for one in other.beside if one is not self])
        self.beside = ()

    def permitted(self) -> bool:
        """Whether its breaker and the operator let a request through."""
        if self.draining:
            return False
        return self.breaker.state == CLOSED or self.breaker.may(monotonic()) != NO

    def tells(self, running: int, waiting: int) -> None:
        """By its own figures so many requests, whosever they are, run in it now, and wait."""
        self.queued = max(0, min(running + waiting, MOST_QUEUED) - self.inflight + self.light)
        self.crowded = waiting > at_hand(running)

    def unscheduled(self) -> None:
        """Nobody asks for its figures any more: it has the places that it was given."""
        self.slots = self.max_concurrent
        self.gradient = self.gauges = None
        self.tells(0, 0)

    def told_to_wait(self, caller: str, now: float, seconds: float) -> None:
        """``caller`` was told to come again in ``seconds``. That is his affair: he alone may be its cause (engines have limits
        by user and by address), and must not keep all others from it. For as long as two at least were told so, or where its
        own figures say why, it rests: it is asked where nobody else is left."""
        until = now + seconds
        others = [word for word in self.words if word[1] != caller and word[0] > now]
        latest = sorted([*others, (until, caller)])[-2:]
        self.words = tuple(latest)
        if not self.crowded:
            if len(latest) < 2:
                return
            until = latest[0][0]
        self.rests_until = until
        self.held = True

    def told(self, caller: str, now: float) -> bool:
        """Whether ``caller`` was told to come again later than ``now``."""
        words = self.words
        if words and words[-1][0] <= now:
            self.words = ()
            return False
        for until, who in words:  # noqa: SIM110 - a function that is compiled has no room for a generator
            if who == caller and now < until:
                return True
        return False

    def rests(self) -> bool:
        """Whether it is to be left alone, as it has asked itself."""
        return self.rests_until > 0.0 and monotonic() < self.rests_until

    def full(self) -> bool:
        """Whether only room is missing: others leave, or it is back, and then a request may go there."""
        return (self.away or (0 < self.slots <= self.under_way() and self.healthy is not False)) and self.permitted()

    def _literal(self) -> tuple[Address, ...]:
        """The address when no look-up is needed."""
        if self.unix_path:
            return ((socket.AF_UNIX, self.unix_path),)
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, self.host)
            except OSError:
                continue
            return ((family, (self.host, self.port)),)
        return ()
