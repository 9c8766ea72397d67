"""``python -m fastgw`` and the installed command."""

from __future__ import annotations

import os
import sys
from typing import Final

STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_missing() -> None:
    """Have descriptors 0 to 2, whoever started this: what is opened next would be one of them, and a log or an error would be
    written into a socket; the loop refuses to live with it."""
    for fd, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # (the lowest that is free. Where there are all three, there need not even be this.)
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - as long as the process


def main() -> None:
    open_missing()
    from fastgw.cli import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
