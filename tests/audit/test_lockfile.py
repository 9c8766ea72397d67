"""Lock files: nothing but pins and hashes, and all that is needed on every target, no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.audit import lockfile, rules
from scripts.audit.lockfile import TAKES_IN, Lock, Locks, Pin, complete, form, parse, render
from scripts.audit.project import Target
from tests.audit.made_up import HASH, OTHER, known

GOOD = f"a==1.0 \\\n    --hash=sha256:{HASH}\n"
EXTRAS = "-r runtime.lock\n" + GOOD.replace("a==", "b==")
PINS = Lock((Pin("a", "1.0", "", frozenset({HASH})),), (), ())


BUILD = GOOD.replace("a==", "c==")
BINARY = "-r build.lock\n" + GOOD.replace("a==", "d==")
TOOL = GOOD  # an environment of its own: what is shipped may be in it too


def locks(runtime: str = GOOD, extras: str = EXTRAS, build: str = BUILD, binary: str = BINARY) -> Locks:
    return Locks(parse(runtime), parse(extras), parse(build), parse(binary), parse(TOOL), parse(TOOL))


def test_the_locks_here_are_well_formed() -> None:
    assert form(lockfile.read()) == []


def test_what_is_written_is_read() -> None:
    pins = (
        Pin("a", "1.0", "", frozenset({HASH, OTHER})),
        Pin("b-c", "2.0.post1", "python_full_version < '3.11.3'", frozenset({OTHER})),
    )
    assert parse(render(pins, "# head\n")) == Lock(pins, (), ())


def test_every_head_is_read_as_nothing_but_what_it_takes_in() -> None:
    for name, head in lockfile.HEADS.items():
        assert parse(head) == Lock((), (f"{TAKES_IN[name]}.lock",) if name in TAKES_IN else (), ())


def test_good_locks() -> None:
    assert form(locks()) == []


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ("a==1.0\n", "a 1.0 has no hash"),
        (f"a==1.0 \\\n    --hash=md5:{HASH}\n", "not a SHA-256 hash"),
        (f"a==1.0 \\\n    --hash=sha256:{HASH[:-1]}\n", "not a SHA-256 hash"),
        (f"a>=1.0 \\\n    --hash=sha256:{HASH}\n", "not a pinned version: a>=1.0"),
        (f"a==1.* \\\n    --hash=sha256:{HASH}\n", "not a pinned version: a==1.*"),
        (f"a==1.0,!=1.1 \\\n    --hash=sha256:{HASH}\n", "not a pinned version"),
        (f"a[x]==1.0 \\\n    --hash=sha256:{HASH}\n", "not a pinned version"),
        (f"a==1.0 ; nonsense \\\n    --hash=sha256:{HASH}\n", "not a pinned version"),
        (GOOD + "b @ https://127.0.0.1/b.whl\n", "not a pinned version: b @"),
        (GOOD + "https://127.0.0.1/b.whl\n", "not a pinned version: https:"),
        (GOOD + "./b.whl\n", "not a pinned version: ./b.whl"),
        (GOOD + "--index-url https://127.0.0.1/simple\n", "not a pinned version: --index-url"),
        (GOOD + "--trusted-host 127.0.0.1\n", "not a pinned version: --trusted-host"),
        (GOOD + "-e .\n", "not a pinned version: -e"),
        (GOOD + "-r other.txt\n", "takes in ['other.txt'] instead of []"),
        (GOOD + GOOD.replace("a==", "b=="), "b is pinned in runtime.lock and in extras.lock"),
        ("# nothing\n", "runtime.lock: is empty"),
    ],
)
def test_what_a_lock_must_not_say(runtime: str, said: str) -> None:
    assert said in "\n".join(form(locks(runtime)))


def test_extras_without_what_they_stand_on() -> None:
    assert "extras.lock: takes in [] instead of ['runtime.lock']" in form(locks(extras=EXTRAS.replace("-r runtime.lock\n", "")))


def test_what_freezes_stands_on_what_builds_and_is_not_shipped() -> None:
    assert "binary.lock: takes in [] instead of ['build.lock']" in form(locks(binary=BINARY.replace("-r build.lock\n", "")))
    assert form(locks(binary=BINARY.replace("d==", "c=="))) == ["c is pinned in build.lock and in binary.lock"]
    assert form(locks(binary=BINARY.replace("d==", "a=="))) == ["a is shipped, and pinned for the build too"]


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    assert "build.lock: it is not there" in form(lockfile.read(tmp_path))


OLD = "python_full_version < '3.11.3'"
ON = (Target("3.11", "x86_64"), Target("3.12", "aarch64"))


def pin(text: str, marker: str = "") -> Pin:
    name, _, version = text.partition("==")
    return Pin(name, version, marker, frozenset({HASH}))


@pytest.mark.parametrize(
    ("pins", "wanted", "here", "said"),
    [
        pytest.param(["a==1"], ["a>=1"], [("a", "1")], [], id="one"),
        pytest.param(["a==1", "b==1"], ["a"], [("a", "1", "b"), ("b", "1")], [], id="two, one for the other"),
        pytest.param(["a==1", "b==1"], ["a[x]"], [("a", "1", 'b; extra=="x"'), ("b", "1")], [], id="what an extra asks for"),
        pytest.param(["a==1"], ["a"], [("a", "1", 'b; extra=="x"')], [], id="what an extra would ask for"),
        pytest.param(["a==1"], ["a"], [("a", "1", "b; sys_platform=='win32'")], [], id="needed elsewhere"),
        pytest.param(["a==1"], ["a", "B_c>=1"], [("a", "1")], ["b-c is missing, pyproject.toml needs it"], id="asked for"),
        pytest.param(["a==1"], ["a"], [("a", "1", "b>=1")], ["b is missing, a needs it"], id="pulled in"),
        pytest.param(["a==1"], ["a>=2"], [("a", "1")], ["a 1 is not what pyproject.toml asks for (>=2)"], id="too old"),
        pytest.param(
            ["a==1", "b==3"], ["a"], [("a", "1", "b<3"), ("b", "3")], ["b 3 is not what a asks for (<3)"], id="too new"
        ),
        pytest.param(["a==1", "b==1"], ["a"], [("a", "1"), ("b", "1")], ["nothing needs b"], id="needless"),
        pytest.param(["a==1", "a==2"], ["a"], [("a", "1")], ["a is pinned twice"], id="twice"),
    ],
)
def test_complete(pins: list[str], wanted: list[str], here: list[tuple[str, ...]], said: list[str]) -> None:
    found = complete("lock", map(pin, pins), map(Requirement, wanted), known(*here), ON)
    assert [line.removeprefix("lock: ").partition(" (on ")[0] for line in found.mistakes] == said
    assert found.unknown == set()


def test_needed_by_one_patch_release_only() -> None:
    wanted, here = [Requirement("a")], known(("a", "1", f"old; {OLD}"), ("old", "1"))
    assert complete("lock", [pin("a==1"), pin("old==1", OLD)], wanted, here, ON).mistakes == []
    (said,) = complete("lock", [pin("a==1")], wanted, here, ON).mistakes
    assert said == "lock: old is missing, a needs it (on 3.11 x86_64)"
    (said,) = complete("lock", [pin("a==1"), pin("old==1", "python_version > '3.11'")], wanted, here, ON).mistakes
    assert said == "lock: old is missing, a needs it (on 3.11 x86_64)"


@pytest.mark.parametrize("here", [[], [("a", "0.9", "b")]], ids=["no metadata", "another version's"])
def test_what_is_not_known_is_told_and_never_taken_for_nothing(here: list[tuple[str, ...]]) -> None:
    found = complete("lock", [pin("a==1"), pin("c==1")], [Requirement("a")], known(*here), ON)
    assert found.unknown == {"a"}
    assert found.mistakes == [], "what a needs is not known: c may be it"


def test_targets_are_those_that_the_heads_name() -> None:
    text = (lockfile.FOLDER / "runtime.lock").read_text()
    assert ", ".join(rules.PYTHONS) in text
    assert ", ".join(rules.MACHINES) in text
