"""What the control process and its workers say to each other. docs/workers.md has the conversation.

Owns: the words, and how they are written (msgpack, an array for each row). Invariant: whoever reads a word that it does not
know takes the other side for another version, and goes no further: nothing is guessed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from fastgw.config import ConfigErrors
from fastgw.control.admin_engines import EngineExists, EngineNotFound, EngineOfRunner, TooManyEngines
from fastgw.control.call import FieldProblems
from fastgw.engines import EngineDesk
from fastgw.limits.key import KeyRecord
from fastgw.limits.region import MAGIC
from fastgw.limits.spending import SpentRow
from fastgw.workers.figures import Counted as Counted

PROTOCOL: Final = 1
"""Of this conversation: another one, another number. Both sides may be of different versions of the program."""
SPEAKS: Final = f"{PROTOCOL}.{MAGIC}"
"""Who says the same words, and reads the same memory."""

ROWS: Final = 250
"""Of keys or of usage in one word, before the loop gets its turn."""


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """What a worker is: the ``worker``-th that holds something of the limits (0 is the control process), and the ``at``-th of
    so many that listen. ``required``: who has no key is refused. It has inherited so many sockets that listen, and descriptors
    of the limits that all share."""

    speaks: str
    worker: int
    at: int
    workers: int
    required: bool
    shared: int
    sockets: int


class Up(msgspec.Struct, tag="up", frozen=True):
    """The worker takes requests."""

    pid: int


class Keys(msgspec.Struct, tag="keys", frozen=True):
    """Keys that are new or others, as the store has them."""

    records: list[KeyRecord]


class Engine(msgspec.Struct, tag="engine", frozen=True):
    """The operator has done this with the engine of that name: add, change, drain, undrain, or remove it."""

    what: str
    name: str
    fields: dict[str, Any] = {}
    why: str = ""

    def done(self, desk: EngineDesk) -> str:
        """Do it; what was wrong."""
        try:
            match self.what:
                case "add":
                    desk.add(self.fields)
                case "change":
                    desk.change(self.name, self.fields)
                case "drain":
                    desk.drain(self.name)
                case "undrain":
                    desk.undrain(self.name)
                case "remove":
                    desk.remove(self.name, self.why)
        except (EngineExists, EngineNotFound, EngineOfRunner, TooManyEngines, FieldProblems, ConfigErrors) as error:
            return f"{self.what} {self.name}: {error or type(error).__name__}"
        return ""


class Recount(msgspec.Struct, tag="recount", frozen=True):
    """Tell all that was counted anew, from the beginning: the program that has heard of it is another."""


class Recounted(msgspec.Struct, tag="recounted", frozen=True):
    """From here on it is."""


class Follow(msgspec.Struct, tag="follow", frozen=True):
    """Read the settings again: those that hold here are others."""


class Reopen(msgspec.Struct, tag="reopen", frozen=True):
    """Go on in new log files, where the old ones were renamed."""


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """All that was said before this has been done: say so, and with ``figures`` what has been counted."""

    number: int
    figures: bool = False


class Done(msgspec.Struct, tag="done", frozen=True):
    """The answer. ``problems``: what of it could not be done."""

    number: int
    problems: list[str] = []


class StandIn(msgspec.Struct, tag="stand_in", frozen=True):
    """Take the clients of a worker that is not there, too, on so many sockets that have come before this word: of the one at
    that place."""

    at: int
    sockets: int


class StandBack(msgspec.Struct, tag="stand_back", frozen=True):
    """It is there again."""

    at: int


class Leaves(msgspec.Struct, tag="leaves", frozen=True):
    """(A worker.) It was asked to end, takes nobody else, and ends what it has."""


class Retire(msgspec.Struct, tag="retire", frozen=True):
    """Another process has the sockets: serve what is under way for so long, take nobody else, and end."""

    seconds: float


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """The gateway ends, ``at_once`` or as its settings say."""

    at_once: bool = False


class Unknown(msgspec.Struct, tag="unknown", frozen=True):
    """Of these budgets, and days, it is not known here what they have seen: owner's kind and name, and models."""

    asked: list[tuple[str, str, tuple[str, ...] | None]]


class Used(msgspec.Struct, tag="used", frozen=True):
    """What requests have used that have ended: rows as of ``limits.spending``. The answer to the last of a ``batch`` is
    :class:`Noted`."""

    batch: str
    rows: list[SpentRow]


class Noted(msgspec.Struct, tag="noted", frozen=True):
    """The batch is in the books."""

    batch: str


class AskPage(msgspec.Struct, tag="ask_page", frozen=True):
    """A client of a worker's asks for the metrics, and takes these formats."""

    number: int
    accept: str
    accept_encoding: str


class PagePart(msgspec.Struct, tag="page_part", frozen=True):
    """A piece of the page, the last one with what goes with it; no ``media_type``: there is none now."""

    number: int
    body: bytes
    last: bool = False
    media_type: str = ""
    fields: dict[str, str] = {}


Word = (
    Begin | Up | Recount | Recounted | Keys | Engine | Follow | Reopen | Ask | Done | StandIn | StandBack | Retire | Drain
    | Leaves | Unknown | Used | Noted
    | Counted | AskPage | PagePart
)  # fmt: skip

write = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Word)


def read(frame: bytes) -> Word:
    """Raises ``msgspec.MsgspecError`` for what is none of these words."""
    return _decoder.decode(frame)
