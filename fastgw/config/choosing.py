"""The settings of which engine gets a request: a section of the table (``table.py``), beside its file.

Owns: rows, as that. What each policy is stands in ``docs/engines.md``.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from collections.abc import Sequence
from typing import Annotated

import msgspec

from fastgw.config import grammar
from fastgw.config.row import row, seconds, within

GIB = 1 << 30


class Choosing(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is chosen."""

    policy_header: Annotated[str, row(
        "the field of a request by which its client may choose another policy, one of policy_choices; empty = it may not. Any "
        "other value is as good as none",
        check=grammar.field_name,
    )] = ""
    policy_choices: Annotated[Sequence[str], row(
        "the policies that a client may choose by policy_header", check=grammar.policies,
    )] = ()
    session_sources: Annotated[Sequence[str], row(
        "by what the policy session tells sessions, the first that a request has: agents (the fields by which coding agents "
        "tell theirs), header:<name>, cookie:<name>, body:<member>, key, address",
        check=grammar.sources,
    )] = ("agents", "body:prompt_cache_key", "body:user")
    session_ttl_s: Annotated[float, seconds("time without a request after which a session is forgotten")] = 3600.0
    session_table: Annotated[int, within(16, 10_000_000,
        "sessions that are remembered; one more takes the place of the one that was not used for longest, of the key that has "
        "most of them",
    )] = 100_000
    hash_sources: Annotated[Sequence[str], row(
        "by what the policy consistent_hash tells requests apart; as session_sources",
        check=grammar.sources,
    )] = ("agents", "body:prompt_cache_key", "body:user", "key", "address")
    hash_bound_percent: Annotated[int, within(101, 1000,
        "of its share of the requests under way that an engine may have under consistent_hash, and two more than its share in "
        "any case; above it a key goes to its next one",
    )] = 125
    ewma_decay_s: Annotated[float, seconds(
        "time in which a time to the first token loses half of its weight, under ewma_latency and for ejection",
    )] = 10.0
    needs_header: Annotated[str, row(
        "the field of a request that tells what it needs, words separated by commas, under the policy capability; empty = none",
        check=grammar.field_name,
    )] = "x-fastgw-needs"
    prefix_table_bytes: Annotated[int, within(1 << 16, 64 * GIB,
        "memory for what prefix_aware remembers of prompts; what was not used for longest makes room",
    )] = 67108864
    prefix_cache_tokens: Annotated[int, within(1000, 1_000_000_000,
        "tokens of prompts that an engine is thought to keep at hand, under prefix_aware",
    )] = 500_000
    prefix_balance_percent: Annotated[int, within(101, 10000,
        "of its share of the requests under way that an engine may have and still get one for its cache, under prefix_aware",
    )] = 150
    slow_start_s: Annotated[float, seconds(
        "time in which an engine that is new, or has come back, gets to its share: it may have so much of what the others have "
        "under way as of this time has passed",
        zero="it gets its share at once",
    )] = 0.0
    outlier_errors: Annotated[int, within(1, 1000,
        "failures in a row after which an engine is ejected: it gets a request only where no other takes it", zero="never",
    )] = 0
    outlier_error_percent: Annotated[int, within(1, 100,
        "of an engine's calls in ten seconds that failed, of ten at the least, at which it is ejected", zero="never",
    )] = 0
    outlier_ttft_factor: Annotated[float, within(1.5, 1000.0,
        "times the median of its group that an engine's time to the first token may be; above it is ejected", zero="never",
    )] = 0.0
    outlier_eject_s: Annotated[float, seconds(
        "time for which an engine is ejected; for twice that the second time, and so on, ten times at the most",
    )] = 30.0
    outlier_most_percent: Annotated[int, within(1, 100,
        "of a group's engines that may be ejected at once, one in any case where there are others",
    )] = 30
