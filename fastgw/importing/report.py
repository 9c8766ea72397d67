"""What becomes of each entry of another gateway's configuration, for whoever moves.

Owns: :class:`Report`. Invariant: once it is closed, each entry (each value that holds no others) is told of once, by itself or
with all that stands around it. Must never: show a value; some are keys. The names of entries are shown as far as they are
printable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

Path = tuple[Any, ...]
"""Names, numbers in lists, and whatever else YAML takes for the name of an entry."""
Outcome = Literal["translated", "different", "left"]

TITLES: Final[dict[Outcome, str]] = {
    "translated": "translated", "different": "translated with a difference", "left": "not translated",
}  # fmt: skip
MAX_SHOWN: Final = 80
"""Characters of one name that are shown: it is whatever somebody has written."""


class Line(NamedTuple):
    """``path`` and all beneath it that no other line tells of; ``place``: of the first of it in the source."""

    place: int
    path: Path
    words: str


class Report:
    """Of one source."""

    def __init__(self, source: Mapping[Any, Any]) -> None:
        self.lines: dict[Outcome, list[Line]] = {outcome: [] for outcome in TITLES}
        self._open: Any = _tree(source) or {}
        self._place = {leaf: place for place, leaf in enumerate(_leaves(self._open, ()))}

    def tell(self, outcome: Outcome, path: Path, words: str) -> None:
        """Say what becomes of ``path`` and of all beneath it. What was told before, or is not there, stays as it is."""
        node: Any = self._open
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or path[-1] not in node:
            return
        first = next(_leaves(node.pop(path[-1]), path), None)
        if first is not None:
            self.lines[outcome].append(Line(self._place[first], path, words))

    def close(self, words: str) -> None:
        """What nobody has told of is not translated."""
        for leaf in list(_leaves(self._open, ())):
            self.tell("left", leaf, words)

    @property
    def complete(self) -> bool:
        return not self.lines["left"]

    def text(self) -> str:
        """What became of what, in the order of the source, and a last line that counts. What has the same words is together."""
        told = []
        for outcome, title in TITLES.items():
            paths: dict[str, list[str]] = {}
            for line in sorted(self.lines[outcome], key=lambda line: line.place):
                paths.setdefault(line.words, []).append(shown(line.path))
            told += [f"{title}:"] * bool(paths) + [f"  {', '.join(those)}: {words}" for words, those in paths.items()]
        counts = [f"{len(self.lines[outcome])} {title}" for outcome, title in TITLES.items()]
        return "\n".join([*told, ", ".join(counts)]) + "\n"


def shown(path: Path) -> str:
    """``model_list[0].litellm_params.model``."""
    text = ""
    for part in path:
        if type(part) is int:
            text += f"[{part}]"
        else:
            name = "".join(char if char.isprintable() else "?" for char in str(part)[: MAX_SHOWN + 1])
            text += ("." if text else "") + (f"{name[:MAX_SHOWN]}..." if len(name) > MAX_SHOWN else name)
    return text


def leaves(source: Mapping[Any, Any]) -> list[Path]:
    """The entries of a source, each by its path."""
    return list(_leaves(_tree(source) or {}, ()))


def _tree(value: Any) -> Any:
    """Its shape: a dict of what holds others (a list by its numbers), None for an entry."""
    if isinstance(value, Mapping) and value:
        return {name: _tree(one) for name, one in value.items()}
    if isinstance(value, list) and value:
        return {index: _tree(one) for index, one in enumerate(value)}
    return None


def _leaves(node: Any, path: Path) -> Iterator[Path]:
    if node is None:
        yield path
        return
    for name, one in node.items():
        yield from _leaves(one, (*path, name))
