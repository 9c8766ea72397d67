"""Licences: what a distribution's metadata says, as SPDX names, and whether each of them is allowed.

Invariant: what is not understood is not allowed. An expression (``License-Expression``, PEP 639) is the author's last word;
without one, everything that the older fields say has to be allowed, and at least one of them has to be understood.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from scripts.audit import rules
from scripts.audit.project import Distribution

# A License field longer than this is the licence's whole text; what it is called stands in the classifiers then.
LONGEST_NAME: Final = 60

_TOKEN: Final = re.compile(r"\s*(?:(?P<bracket>[()])|(?P<word>[A-Za-z0-9.+-]+))")


class Judgement(NamedTuple):
    said: str
    problem: str
    """"" = it is allowed."""
    note: str = ""


def judge(
    one: Distribution,
    allowed: Collection[str] = rules.LICENCES,
    exceptions: Mapping[str, tuple[str, str]] = rules.LICENCE_EXCEPTIONS,
) -> Judgement:
    said, unclear = names(one)
    excepted, note = exceptions.get(one.name, ("", ""))
    allowed = {*allowed, excepted} if excepted else allowed
    words = ", ".join(said) or "nothing"
    if unclear:
        return Judgement(words, f"says {unclear!r}, which is no licence that is known here")
    if not said:
        return Judgement(words, "says nothing about its licence")
    refused = [text for text in said if not permitted(text, allowed)]
    if refused:
        return Judgement(words, f"is under {', '.join(refused)}, which is not among the allowed")
    return Judgement(words, "", note if any(not permitted(text, set(allowed) - {excepted}) for text in said) else "")


def names(one: Distribution) -> tuple[list[str], str]:
    """The expressions that it is under, and what of its metadata was not understood."""
    if one.licence_expression:
        return [one.licence_expression], ""
    said: list[str] = []
    texts = [text for text in (one.licence.strip(),) if text not in ("", "UNKNOWN") and len(text) <= LONGEST_NAME]
    texts += [text for line in one.licence_classifiers if (text := line.rpartition("::")[2].strip()) != "OSI Approved"]
    for text in texts:
        name = rules.LICENCE_NAMES.get(text.lower(), text)
        if not _known(name):
            return said, text
        said.append(name)
    return list(dict.fromkeys(said)), ""


def _known(text: str) -> bool:
    """An SPDX expression, by its form. Whether its names are allowed is asked later; a sentence is none."""
    try:
        _Expression(text, ()).value()
    except ValueError:
        return False
    return True


def permitted(text: str, allowed: Collection[str]) -> bool:
    """Whether an SPDX expression can be had with allowed licences only; what is not one cannot."""
    try:
        return _Expression(text, allowed).value()
    except ValueError:
        return False


class _Expression:
    """``OR`` binds less than ``AND``; ``WITH`` adds an exception to a licence, and a licence with one is another licence."""

    def __init__(self, text: str, allowed: Collection[str]) -> None:
        self.allowed = {name.lower() for name in allowed}
        self.tokens: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(text)
            self.tokens.append(found[0].strip())
            at = found.end()

    def value(self) -> bool:
        result = self._any()
        if self.tokens:
            raise ValueError(self.tokens)
        return result

    def _any(self) -> bool:
        result = self._all()
        while self._take("OR"):
            result = self._all() or result
        return result

    def _all(self) -> bool:
        result = self._one()
        while self._take("AND"):
            result = self._one() and result
        return result

    def _one(self) -> bool:
        if self._take("("):
            result = self._any()
            if not self._take(")"):
                raise ValueError(self.tokens)
            return result
        name = self._name()
        if self._take("WITH"):
            name = f"{name} WITH {self._name()}"
        return name.lower() in self.allowed

    def _take(self, word: str) -> bool:
        if self.tokens and self.tokens[0].upper() == word:
            del self.tokens[0]
            return True
        return False

    def _name(self) -> str:
        if not self.tokens or self.tokens[0].upper() in {"OR", "AND", "WITH", "(", ")"}:
            raise ValueError(self.tokens)
        return self.tokens.pop(0)
