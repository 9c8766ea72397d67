"""The tree itself: everything in it is written for this project, is text, and holds no secret.

Looks at what git has, as it is now; what lies beside it and was never added is nobody's concern.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from scripts.audit import rules


def files(root: Path) -> list[str] | None:
    """Their paths; None where there is no git to ask."""
    words = ["git", "ls-files", "-z", "--cached"]
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return sorted(name for name in done.stdout.decode().split("\0") if name and (root / name).is_file())


def judge(path: str, data: bytes, not_secret: Mapping[str, str] = rules.NOT_SECRET) -> Iterator[str]:
    """Sentences about one file. A secret is told by its kind and line, never by its text."""
    names = {part.lower() for part in PurePath(path).parts}
    if names & rules.VENDOR_NAMES or path.endswith((".min.js", ".min.css")):
        yield f"{path}: by its name it is somebody else's"
    if len(data) > rules.MAX_FILE_BYTES:
        yield f"{path}: {len(data)} bytes, more than {rules.MAX_FILE_BYTES}"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        yield f"{path}: not text"
        return
    if PurePath(path).name != "LICENSE" and (found := rules.FOREIGN.search(text)):
        yield f"{path}:{_line(text, found.start())}: has a head of its own ({found[0]}): whose is it?"
    for kind, shape in rules.SECRETS.items():
        for found in shape.finditer(text):
            if hashlib.sha256(found[0].encode()).hexdigest()[:16] not in not_secret:
                yield f"{path}:{_line(text, found.start())}: looks like {kind}"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
