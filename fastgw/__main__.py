"""``python -m fastgw`` and the installed command."""

from __future__ import annotations

import sys


def main() -> None:
    from fastgw.cli import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
