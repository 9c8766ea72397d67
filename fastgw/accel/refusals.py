"""Why a head is refused: what both twins of the judges of heads say of it, in the order in which it is looked at."""

from __future__ import annotations

import enum


class Refusal(enum.IntEnum):
    """The first thing that is wrong with a head."""

    MANY_FIELDS = 1
    LINE = 2
    METHOD = 3
    VERSION = 4
    OTHER_VERSION = 5
    CONNECT = 6
    OTHER_METHOD = 7
    TARGET = 8
    STAR = 9
    FIELD = 10
    HOST_AGAIN = 11
    LENGTH_AGAIN = 12
    TYPE_AGAIN = 13
    CODING_AGAIN = 14
    IMITATION = 15
    LENGTH = 16
    OLD_CODING = 17
    OTHER_CODING = 18
    CODING = 19
    BOTH = 20
    NO_HOST = 21
    HOST = 22
    UPGRADE = 23
    OPTIONS = 24
