"""Why there was no hand-over, in one line each."""

from __future__ import annotations


class NotHanded(Exception):
    """Nothing was handed over, and all is as it was; the text says why."""


class NotTaken(Exception):
    """The other process has not handed over; the text says why."""
