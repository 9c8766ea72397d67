"""``python -m benchmarks.routing``: each policy on the same traces, in one process and a few minutes.

Two of them: conversations before 16 engines that are alike (what is in whose cache is what counts), and chats of very different
lengths before engines of which a quarter is half as fast (what each has to do is what counts).

With ``--sockets`` it is what ``sockets.py`` says: real routers, over HTTP.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.routing.simulation import Machine, run
from benchmarks.routing.trace import Shape, trace
from fastgw import twins
from fastgw.config.names import POLICIES, Policy

ENGINES = 16
CONVERSATIONS = Shape()
SKEWED = Shape(
    chats=1000, agents=0, chat_system_tokens=200, chat_message_tokens=(30, 2500), chat_answer_tokens=(20, 900),
    chat_think_s=8.0,
)  # fmt: skip
ALIKE = [Machine()] * ENGINES
UNLIKE = [Machine(prefill_rate=5_000.0 if at % 4 == 0 else 10_000.0, decode_rate=25.0 if at % 4 == 0 else 50.0, slots=24)
          for at in range(ENGINES)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="*", default=[name for name in POLICIES if name not in ("weighted", "ordered")])
    arguments = parser.parse_args()
    print(f"twin: {'native' if twins.native() else 'Python'}, seed {arguments.seed}")
    for title, shape, machines in (("conversations", CONVERSATIONS, ALIKE), ("skew", SKEWED, UNLIKE)):
        sessions = trace(shape, arguments.seed)
        requests = sum(len(session.turns) for session in sessions)
        print(f"\n{title}: {len(sessions)} sessions, {requests} requests, {len(machines)} engines\n")
        print("| policy | mean TTFT, s | median | p99 | prompt tokens at hand | busiest engine / mean | run, s |")
        print("|---|---|---|---|---|---|---|")
        for name in arguments.policies:
            policy: Policy = name
            began = time.perf_counter()
            found = run(policy, sessions, machines, arguments.seed)
            took = time.perf_counter() - began
            print(
                f"| `{policy}` | {found.mean_s:.3f} | {found.at(0.5):.3f} | {found.at(0.99):.3f} | {found.hit_rate:.0%} "
                f"| {found.imbalance:.2f} | {took:.1f} |",
                flush=True,
            )


if "--sockets" in sys.argv:
    from benchmarks.routing import sockets

    sys.exit(sockets.main())
main()
