"""``python -m fastgw`` and the installed command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    _take_places()
    from fastgw.cli import main as run

    sys.exit(run(sys.argv[1:]))


def _take_places() -> None:
    """Where we were started without stdin, stdout or stderr (``2>&-``), they lead nowhere: left free, the next socket would
    have that number, and be sent what is meant for the log."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # (the lowest that is free)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
