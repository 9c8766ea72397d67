"""The part of the suite that answers within a minute, over one twin: units, and conversations without sockets.

    .venv/bin/python scripts/test/check.py            all of it; what `make check` runs after lint and types
    .venv/bin/python scripts/test/check.py -k name    arguments go to pytest

Native where it is built, else Python; ``FASTGW_NATIVE=0`` chooses. What it leaves to `make test` is named here, so that a new
folder is in it. Two sessions side by side, of about the same length; properties have a quarter of their examples. Each
session's output lies in ``build/test/``.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

from both import NO_TESTS, ROOT, Session, run, split_marks

TESTS = ROOT / "tests"
# They start gateways by the hundred, engines and programs; or hold one twin against the other; or are of what is no part of a
# gateway; or follow recipes in copies of the whole.
LEFT_OUT = {
    "adversity", "audit", "benchmarks", "cli", "deploy", "e2e", "fuzz", "h2cases", "native", "peers", "recipes", "reference",
    "sim", "soak", "store", "support",
}  # fmt: skip
# About half of the time.
MACHINES = {"accel", "limits", "protocol", "architecture", "upstream"}  # the last two for balance: half of the time each
SLOW = "quiet or both_twins"
TIMED = "tests/protocol/test_costs.py"  # a fifth of the whole, and what else runs is in what it measures


def folders() -> tuple[list[str], list[str]]:
    """What the two sessions run, as paths below the root."""
    found = sorted(path for path in TESTS.iterdir() if path.is_dir() and next(path.rglob("test_*.py"), None))
    chosen = [path for path in found if path.name not in LEFT_OUT]
    machines = [str(path.relative_to(ROOT)) for path in chosen if path.name in MACHINES]
    others = [str(path.relative_to(ROOT)) for path in [*chosen, *sorted(TESTS.glob("test_*.py"))] if path.name not in MACHINES]
    return machines, others


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    sys.path.insert(0, str(ROOT))
    from fastgw import twins

    twin = "native" if twins.built() and os.environ.get("FASTGW_NATIVE") != "0" else "python"
    marks, rest = split_marks(arguments)
    expression = f"not ({SLOW})" + (f" and ({marks})" if marks else "")
    options = ["--hypothesis-profile=check", f"--ignore={TIMED}", *rest]
    (ROOT / "build" / "test").mkdir(parents=True, exist_ok=True)
    named = zip(("machines", "others"), folders(), strict=True)
    codes = run([partial(Session, twin, f"check-{name}", expression, [*options, *paths]) for name, paths in named])
    failed = [code for code in codes if code not in (0, NO_TESTS)]
    nothing = all(code == NO_TESTS for code in codes)
    verdict = "failed" if failed else "no such test" if nothing else "passed; make test runs everything"
    print(f"{verdict}: {twin}, {time.monotonic() - began:.0f} s")
    return failed[0] if failed else NO_TESTS if nothing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
