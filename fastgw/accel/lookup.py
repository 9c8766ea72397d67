"""Which of some fields a head has, in one pass: a request is asked for a dozen names by which clients tell a session."""

from __future__ import annotations


def first_in(block: bytes, names: tuple[bytes, ...]) -> bytes | None:
    """The value of the first of ``names`` (in lower case; their order is what counts, not that of the fields) that is a field
    of ``block``, lines that each end with CRLF, without the blanks around it; None = none is there, or it is empty."""
    best = len(names)
    found: bytes | None = None
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in names[:best] and (value := value.strip(b" \t")):
            best = names.index(name)
            found = value
    return found
