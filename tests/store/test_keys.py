"""Keys in the store: what they may be, how they change, what the audit says, and that no key's text is kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fastgw.limits.key import NUMBERS
from fastgw.store import fields, keys
from fastgw.store.database import Database
from fastgw.store.fields import KeyProblems
from fastgw.store.keys import KeyNotFound

NOW = 1_800_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database.open(str(tmp_path / "fastgw.db"))
    yield found
    found.close()


def problems(given: dict[str, object]) -> list[str]:
    with pytest.raises(KeyProblems) as caught:
        fields.read_fields(given, NOW)
    return caught.value.problems


def test_a_key_is_random_and_only_its_digest_is_kept(database: Database) -> None:
    record, text = keys.create(database, {}, "test", NOW)
    assert re.fullmatch(r"fgw_[A-Za-z0-9_-]{43}", text)
    assert re.fullmatch(r"key_[0-9a-f]{16}", record.id)
    assert record.digest == hashlib.sha256(text.encode()).digest()
    assert keys.create(database, {}, "test", NOW)[1] != text


def test_all_fields_come_back_as_they_were_set(database: Database) -> None:
    given: dict[str, object] = {
        "name": "Ünïcode's; DROP TABLE keys--",
        "tenant": "acme",
        "expires_at": "30d",
        "disabled": True,
        "requests_per_minute": 60,
        "burst": 0,
        "tokens_per_minute": 10**11,
        "daily_tokens": 10**15,
        "concurrency": 4,
        "priority": "low",
        "on_exhausted": "cut",
        "budget": "12.50",
        "budget_period": "day",
        "models": ["llama", "qwen", "llama"],
        "networks": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"],
        "certificates": ["AB" * 32, "cd:" * 31 + "cd", "ab" * 32],
    }
    assert set(given) == set(fields.FIELDS)
    record, _text = keys.create(database, given, "test", NOW)
    found = keys.find(database, record.id)
    assert found == record
    shown = msgspec.structs.asdict(found)
    expected = {
        **given,
        "expires_at": NOW + 30 * 86_400,
        "budget": 12_500_000_000,
        "models": ("llama", "qwen"),
        "networks": ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"),
        "certificates": ("ab" * 32, "cd" * 32),
    }
    assert {name: shown[name] for name in given} == expected


def test_what_is_not_set_is_the_gateways_default(database: Database) -> None:
    record, _text = keys.create(database, {"name": "plain", "burst": None, "priority": None}, "test", NOW)
    assert [getattr(record, name) for name in ("budget", *NUMBERS, *fields.CHOICES)] == [None] * 9
    assert (record.models, record.networks, record.expires_at, record.disabled) == ((), (), 0.0, False)


def test_every_mistake_is_told_in_its_own_sentence() -> None:
    found = problems({"name": "a\nb", "burst": -1, "expires_at": "1999-01-01", "modles": [], "priority": "urgent"})
    assert [line.partition(":")[0] for line in found] == [
        "name", "burst", "expires_at", "there is no field modles; did you mean models?", "priority",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("name", "x" * 129, "at most 128 printable"),
        ("name", "a\x1b[31m", "printable"),
        ("name", "a\u202eb", "printable"),
        ("name", " a", "no space at either end"),
        ("name", 7, "text"),
        ("name", None, "text"),
        ("name", "fgw_" + "A" * 43, "must not look like a key"),
        ("name", "key_0123456789abcdef", "must not look like a key"),
        ("tenant", "\ud800", "printable"),
        ("requests_per_minute", 10**9 + 1, "0 to 1000000000"),
        ("burst", "5", "whole number"),
        ("burst", 1.5, "whole number"),
        ("burst", True, "whole number"),
        ("tokens_per_minute", 10**11 + 1, "0 to 100000000000"),
        ("daily_tokens", 10**15 + 1, "0 to 1000000000000000"),
        ("concurrency", 10**6 + 1, "0 to 1000000"),
        ("priority", "HIGH", "high, normal or low"),
        ("on_exhausted", "drop", "refuse or cut"),
        ("budget", "-1", "an amount as text"),
        ("budget", "1e3", "an amount as text"),
        ("budget", 12.5, "an amount as text"),
        ("budget", "1.0000000001", "an amount as text"),
        ("budget_period", "year", "day, week or month"),
        ("models", "llama", "list"),
        ("models", [""], "1 to 256"),
        ("models", ["m" * 257], "1 to 256"),
        ("models", ["m"] * 1001, "at most 1000"),
        ("models", [1], "names"),
        ("networks", ["10.0.0.1/8"], "did you mean 10.0.0.0/8?"),
        ("networks", ["10.0.0.0/8", "example.org"], "entry 2"),
        ("networks", ["fe80::1%eth0"], "entry 1"),
        ("networks", [167772160], "entry 1"),
        ("networks", ["10.0.0.0/8"] * 257, "at most 256"),
        ("certificates", "ab" * 32, "list"),
        ("certificates", ["ab" * 32, "ab" * 31], "entry 2"),
        ("certificates", [7], "entry 1"),
        ("certificates", ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"], "entry 1"),
        ("certificates", ["-----BEGIN CERTIFICATE-----\n" + "A" * 65536], "entry 1"),
        ("certificates", [f"{number:064x}" for number in range(17)], "at most 16"),
        ("disabled", 1, "true or false"),
        ("expires_at", "soon", "ISO 8601"),
        ("expires_at", float("nan"), "future"),
        ("expires_at", float("inf"), "future"),
        ("expires_at", NOW, "future"),
        ("expires_at", 10**400, "before the year 10000"),
        ("expires_at", "0d", "future"),
        ("expires_at", "999999999w", "before the year 10000"),
        ("expires_at", True, "Unix seconds"),
        ("expires_at", [], "Unix seconds"),
    ],
)
def test_what_a_field_cannot_be(name: str, value: object, says: str) -> None:
    (line,) = problems({name: value})
    assert line.startswith(f"{name}: ")
    assert says in line


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (NOW + 5, NOW + 5),
        (1_800_000_007, 1_800_000_007.0),
        ("1800000007", 1_800_000_007.0),
        ("90s", NOW + 90),
        ("12h", NOW + 43_200),
        ("2w", NOW + 14 * 86_400),
        ("2030-01-01", 1_893_456_000.0),
        ("2030-01-01T00:00:00Z", 1_893_456_000.0),
        ("2030-01-01T01:00:00+01:00", 1_893_456_000.0),
        (None, 0.0),
        ("", 0.0),
        ("never", 0.0),
        (0, 0.0),
    ],
)
def test_ways_to_say_when_a_key_ends(value: object, at: float) -> None:
    assert fields.read_fields({"expires_at": value}, NOW) == {"expires_at": at}


def test_a_field_of_a_strange_name_is_not_repeated() -> None:
    assert problems({"fgw_secret\nkey": 1}) == ["there is no field of that name"]


def test_a_mistake_changes_nothing(database: Database) -> None:
    record, _text = keys.create(database, {"name": "a"}, "test", NOW)
    with pytest.raises(KeyProblems):
        keys.update(database, record.id, {"burst": 1, "priority": "x"}, "test", NOW)
    assert keys.find(database, record.id) == record
    assert len(keys.audit(database)[0]) == 1


def test_a_key_is_found_by_its_id_and_by_a_name_that_is_its_own(database: Database) -> None:
    first, _ = keys.create(database, {"name": "twin"}, "test", NOW)
    assert keys.find(database, "twin") == first == keys.find(database, first.id)
    second, _ = keys.create(database, {"name": "twin"}, "test", NOW + 1)
    with pytest.raises(KeyNotFound, match=f"2 keys have that name; use the id: {', '.join(sorted((first.id, second.id)))}"):
        keys.find(database, "twin")
    keys.delete(database, first.id, "test", NOW)
    assert keys.find(database, "twin") == second


@pytest.mark.parametrize("asked", ["", "' OR '1'='1", "key_0000000000000000", "fgw_x", "%", "\x00"])
def test_a_key_that_is_not_there_is_not_repeated(database: Database, asked: str) -> None:
    keys.create(database, {}, "test", NOW)
    for action in (keys.disable, keys.enable, keys.delete):
        with pytest.raises(KeyNotFound, match="there is no key of that id or name"):
            action(database, asked, "test", NOW)


def test_changes_are_found_by_their_revision_in_order(database: Database) -> None:
    one, _ = keys.create(database, {"name": "one"}, "test", NOW)
    two, _ = keys.create(database, {"name": "two"}, "test", NOW)
    seen = database.revision()
    assert seen == two.revision
    disabled = keys.disable(database, "one", "test", NOW)
    gone = keys.delete(database, "two", "test", NOW)
    assert keys.changed_since(database, seen) == ([disabled, gone], [])
    assert (disabled.id, disabled.disabled, gone.id, gone.deleted) == (one.id, True, two.id, True)
    assert [record.id for record in keys.list_keys(database)] == [one.id]
    assert keys.changed_since(database, database.revision()) == ([], [])


def test_what_changes_nothing_leaves_no_trace(database: Database) -> None:
    record, _ = keys.create(database, {"name": "a", "burst": 3}, "test", NOW)
    assert keys.update(database, "a", {"burst": 3}, "test", NOW) == record
    assert keys.enable(database, "a", "test", NOW) == record
    assert database.revision() == record.revision
    assert [row.action for row in keys.audit(database)[0]] == ["create"]


def test_rotation_keeps_the_text_before_for_a_while(database: Database) -> None:
    record, first = keys.create(database, {"name": "a"}, "test", NOW)
    turned, second = keys.rotate(database, "a", 3600, "test", NOW)
    assert turned.digest == hashlib.sha256(second.encode()).digest() != record.digest
    assert (turned.previous_digest, turned.previous_until) == (hashlib.sha256(first.encode()).digest(), NOW + 3600)
    at_once, third = keys.rotate(database, "a", 0, "test", NOW)
    assert (at_once.previous_digest, at_once.previous_until) == (b"", 0.0)
    assert len({first, second, third}) == 3
    assert at_once.id == record.id


@pytest.mark.parametrize("grace_s", [-1, 30 * 86_400 + 1, float("nan"), float("inf"), True, "1h", None])
def test_a_grace_that_cannot_be(database: Database, grace_s: float) -> None:
    record, _ = keys.create(database, {"name": "a"}, "test", NOW)
    with pytest.raises(KeyProblems, match="from 0 to 2592000"):
        keys.rotate(database, "a", grace_s, "test", NOW)
    assert keys.find(database, "a") == record


def test_the_audit_says_who_did_what_and_no_secret(database: Database) -> None:
    record, first = keys.create(database, {"name": "a", "models": ["m"], "budget": "12.50"}, "cli:ann", NOW)
    keys.update(database, "a", {"burst": 5, "name": "b", "budget": None}, "admin\n", NOW + 1)
    _record, second = keys.rotate(database, "b", 60, "cli:ann", NOW + 2)
    keys.disable(database, "b", "cli:ann", NOW + 3)
    keys.delete(database, "b", "cli:ann", NOW + 4)
    rows, more = keys.audit(database)
    assert not more
    assert [(row.at - NOW, row.actor, row.action, row.changes) for row in reversed(rows)] == [
        (0, "cli:ann", "create", {"name": "a", "models": ["m"], "budget": "12.5"}),
        (1, "admin?", "update", {"burst": [None, 5], "name": ["a", "b"], "budget": ["12.5", None]}),
        (2, "cli:ann", "rotate", {"grace_s": 60}),
        (3, "cli:ann", "disable", {"disabled": [False, True]}),
        (4, "cli:ann", "delete", {}),
    ]
    assert {row.key_id for row in rows} == {record.id}
    assert [row.action for row in keys.audit(database, 2)[0]] == ["delete", "disable"]
    assert first not in str(rows)
    assert second not in str(rows)


def test_no_text_of_a_key_is_in_the_files(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    texts = []
    for number in range(5):
        record, text = keys.create(database, {"name": f"k{number}"}, "test")
        texts += [text, keys.rotate(database, record.id, 60, "test")[1]]
    keys.delete(database, "k0", "test")
    open_files = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    database.close()
    for held in (open_files, (tmp_path / "fastgw.db").read_bytes()):
        assert b"k1" in held
        assert not [text for text in texts if text[4:].encode() in held or text[4:24].encode() in held]


def test_a_certificate_is_one_key_at_a_time(database: Database) -> None:
    first, _ = keys.create(database, {"name": "a", "certificates": ["ab" * 32]}, "test", NOW)
    second, _ = keys.create(database, {"name": "b"}, "test", NOW)
    for act in (
        lambda: keys.create(database, {"certificates": ["cd" * 32, "ab" * 32]}, "test", NOW),
        lambda: keys.update(database, "b", {"certificates": ["cd" * 32, "ab" * 32]}, "test", NOW),
    ):
        with pytest.raises(KeyProblems, match=f"certificates: entry 2 is a certificate of the key {first.id}"):
            act()
    assert keys.find(database, second.id) == second
    again = keys.update(database, "a", {"certificates": ["ab" * 32, "ef" * 32]}, "test", NOW)
    assert again.certificates == ("ab" * 32, "ef" * 32), "its own is no other's"
    keys.update(database, "a", {"certificates": ["ef" * 32]}, "test", NOW)
    keys.update(database, "b", {"certificates": ["ab" * 32]}, "test", NOW)
    keys.delete(database, "a", "test", NOW)
    assert keys.update(database, "b", {"certificates": ["ef" * 32]}, "test", NOW).certificates == ("ef" * 32,)
    rows, _ = keys.audit(database)
    assert rows[0].changes == {"certificates": [["ab" * 32], ["ef" * 32]]}
