"""Huffman's code of HTTP/2's field blocks (RFC 7541, appendix B), read.

The code is canonical: of symbols in the order of their lengths, and then of their values, each has the next number. So it is
known by its lengths, and what reads it is made of them: here steps over half bytes, in C a table of the shorter codes.
"""

from __future__ import annotations

from typing import Final

# Of each byte's code, in bits; behind them that of the end, which is never written (§5.2).
_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)  # fmt: skip
_END: Final = 256
_NOTHING: Final = -1
_WRONG: Final = 256 << 4  # a state that is never left

_steps: list[tuple[int, int]] = []  # by a state and half a byte: the next state, and what was read, _NOTHING = nothing
_ends: set[int] = set()  # the states in which a string may end: within so many bits of the end's code as fit in a byte


def _make() -> None:
    """The tree of codes, each of whose nodes is a state (times 16); and the steps through it. (257 codes have 256 nodes.)"""
    tree = [[_NOTHING, _NOTHING]]  # below a node: another, or a symbol as -2 - symbol
    code = last = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - last
        last = length
        at = 0
        for bit in range(length - 1, 0, -1):
            side = code >> bit & 1
            if tree[at][side] == _NOTHING:
                tree[at][side] = len(tree)
                tree.append([_NOTHING, _NOTHING])
            at = tree[at][side]
        tree[at][code & 1] = -2 - symbol
        code += 1
    steps = [_step(tree, state, half) for state in range(len(tree)) for half in range(16)]
    at = 0
    for _ in range(8):
        _ends.add(at << 4)
        at = tree[at][1]
    _steps.extend(steps + [(_WRONG, _NOTHING)] * 16)


def _step(tree: list[list[int]], at: int, half: int) -> tuple[int, int]:
    made = _NOTHING
    for bit in (3, 2, 1, 0):
        at = tree[at][half >> bit & 1]
        if at < 0:  # (at most once: no code is shorter than five bits)
            made = -2 - at
            at = 0
            if made == _END:
                return _WRONG, _NOTHING
    return at << 4, made


def unpacked(value: bytes) -> bytes:
    """What the string ``value`` says: eight bytes for five of it at most.

    :raises ValueError: it is not in the code: the end's code is in it, or what it ends with is longer than seven bits, or no
        beginning of that.
    """
    if not _steps:
        _make()
    steps = _steps
    out = bytearray()
    at = 0
    for byte in value:
        at, made = steps[at | byte >> 4]
        if made >= 0:
            out.append(made)
        at, made = steps[at | byte & 15]
        if made >= 0:
            out.append(made)
    if at not in _ends:
        raise ValueError("a string is not in Huffman's code")
    return bytes(out)
