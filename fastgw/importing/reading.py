"""The files of other gateways, read within bounds.

Owns: what of a file is taken: one megabyte of UTF-8, nested to :data:`MAX_DEPTH`, :data:`MAX_VALUES` values when YAML's aliases
are written out. Must never: make objects that YAML's tags name, take one of two entries of the same name, or repeat a piece of
the file in an error (it may be a key).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 100_000
MISSING: Final = "YAML needs PyYAML: pip install 'fastgw[import]'"


class Unreadable(Exception):
    """The file cannot be taken; the message says why."""


def read(path: str) -> str:
    """The text of a file. Raises Unreadable."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(f"it cannot be read: {getattr(error, 'strerror', None) or 'its name is none'}") from None
    if len(data) > MAX_BYTES:
        raise Unreadable(f"it is longer than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8 text") from None


def toml(text: str) -> dict[str, Any]:
    """Raises Unreadable."""
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise Unreadable(f"it is not valid TOML{f', in line {line[1]}' if line else ''}") from None
    except (ValueError, RecursionError):
        raise Unreadable("a number in it is too long, or it is nested too deeply") from None
    bounded(data)
    return data


def yaml(text: str) -> dict[Any, Any]:
    """Raises Unreadable."""
    try:
        import yaml as library
    except ImportError:
        raise Unreadable(MISSING) from None

    quick = getattr(library, "CSafeLoader", library.SafeLoader)
    try:
        depth = 0  # (of the text, before anything calls itself as often as it is nested)
        for event in library.parse(text, Loader=quick):
            depth += isinstance(event, library.CollectionStartEvent) - isinstance(event, library.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        root = library.compose(text, Loader=quick)
        if root is None:
            return {}
        _measured(root, {}, library)
        data = quick(text).get_single_data()
    except library.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Unreadable(f"it is not valid YAML{f', in line {mark.line + 1}' if mark else ''}") from None
    except (ValueError, OverflowError, RecursionError, TypeError):
        raise Unreadable("it is not valid YAML: a value in it is none of its kind") from None
    if not isinstance(data, dict):
        raise Unreadable("it is no YAML mapping")
    bounded(data)
    return data


def _measured(node: Any, sizes: dict[int, int], library: Any) -> int:
    """How many values a node is when each alias is written out: counted without writing any out."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise Unreadable("an alias in it stands for what it is in")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if isinstance(node, library.MappingNode):
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, library.ScalarNode)]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            line = max(key.start_mark.line for key, _ in node.value if (key.tag, key.value) == twice[0])
            raise Unreadable(f"an entry stands in it twice, the second time in line {line + 1}")
        inner = [one for pair in node.value for one in pair]
    else:
        inner = node.value if isinstance(node, library.SequenceNode) else []
    size = 1 + sum(_measured(one, sizes, library) for one in inner)
    if size > MAX_VALUES:
        raise Unreadable(f"it has more than {MAX_VALUES} values")
    sizes[id(node)] = size
    return size


def bounded(data: Any) -> None:
    """Of what was read: depth, and number of values."""
    count = 0
    waiting: list[Iterator[Any]] = [iter([data])]
    while waiting:
        value = next(waiting[-1], waiting)
        if value is waiting:
            waiting.pop()
            continue
        count += 1
        if count > MAX_VALUES:
            raise Unreadable(f"it has more than {MAX_VALUES} values")
        if isinstance(value, dict | list):
            if len(waiting) > MAX_DEPTH:
                raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
            waiting.append(iter(value.values() if isinstance(value, dict) else value))


def beside(path: str, name: str) -> str:
    """The file that another names, from where that stands."""
    return os.path.join(os.path.dirname(path), name)
