"""What a release is made of: the workflow does what the Makefile has, with no more rights than that takes."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.release import __main__ as release

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github/workflows/release.yml").read_text()
FLOW = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = FLOW["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
RUNS = "\n".join(step.get("run", "") for _, step in STEPS)
# What a job is allowed, and what it does that takes it.
NEEDED = {
    ("contents", "write"): "gh release create",
    ("packages", "write"): "docker push",
    ("id-token", "write"): "cosign sign",
    ("attestations", "write"): "actions/attest-build-provenance@",
}


def test_each_make_is_a_target() -> None:
    asked = set(re.findall(r"\bmake ([a-z][a-z-]*)", RUNS))
    assert {"site", "test", "audit", "sdist", "wheels", "binary", "pack", "sums", "notes", "tag"} == asked
    for target in asked:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_a_job_may_do_what_it_does_and_no_more(name: str) -> None:
    assert FLOW["permissions"] == {}, "nothing by itself"
    said = yaml.safe_dump(JOBS[name]["steps"], width=10_000)
    rights = dict(JOBS[name]["permissions"])
    assert rights.pop("contents") in ("read", "write")
    written = {one for one in JOBS[name]["permissions"].items() if one[1] != "read"}
    assert {one for one in written if NEEDED[one] not in said} == set()
    assert {one for one, words in NEEDED.items() if words in said} == written


def test_no_secret_is_held_and_no_token_stays() -> None:
    assert "secrets." not in TEXT
    assert FLOW[True] == {"push": {"tags": ["v*"]}}, "(YAML reads `on` as true)"
    kept = [step["with"]["persist-credentials"] for _, step in STEPS if "actions/checkout" in step.get("uses", "")]
    assert kept == [False] * len(JOBS)
    # A name that somebody may choose is never a part of a script.
    assert "${{" not in RUNS


def test_actions_are_pinned_by_commit() -> None:
    used = re.findall(r"uses: (\S+)(.*)", TEXT)
    assert len(used) > 10
    assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one[0])] == []
    assert [one for one in used if not re.fullmatch(r" # v\d+\.\d+\.\d+", one[1])] == []
    assert len(set(used)) == len({name.partition("@")[0] for name, _ in used}), "one version of each"


def test_the_site_is_built_before_what_looks_at_it() -> None:
    """(Without it the tests of the site are skipped.)"""
    first = [step["run"] for step in JOBS["source"]["steps"] if "run" in step]
    assert first.index("make site") < first.index("make test")


def test_a_signature_is_of_the_kind_that_the_page_looks_at() -> None:
    """cosign 2 writes another kind by itself; what is called .sigstore.json is not that one."""
    page = (ROOT / "docs/deploy.md").read_text()
    for name, text in (("sign-blob", RUNS), ("verify-blob", page)):
        (said,) = re.findall(rf"cosign {name} .*", text)
        assert {"--new-bundle-format", "--bundle"} <= set(said.split())
    assert RUNS.count("cosign sign ") == page.count("cosign verify ") == 1


def test_wheels_are_built_by_what_the_lock_names() -> None:
    """Also where cibuildwheel builds them, from the source distribution alone."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert told["build-frontend"] == {"name": "build", "args": ["--no-isolation"]}
    assert told["before-build"] == "pip install --require-hashes -r {project}/requirements/build.lock"
    assert "requirements/build.lock" in (ROOT / "MANIFEST.in").read_text()


def test_jobs_hand_on_what_they_make() -> None:
    """A name that is downloaded was uploaded by a job before."""
    for name, step in STEPS:
        if "download-artifact" in step.get("uses", ""):
            wanted = step["with"].get("name") or step["with"]["pattern"].rstrip("*")
            before = JOBS[name]["needs"]
            before = [before] if isinstance(before, str) else before
            made = [one["with"]["name"] for other in before for one in JOBS[other]["steps"] if "upload-" in one.get("uses", "")]
            assert any(one.startswith(wanted) for one in made)
            assert all(one.startswith("release-") for one in made)


GOOD = f"# Changelog\n\n## [Unreleased]\n\n## [{release.version()}] - 2026-12-01\n\n### Added\n\n- That.\n"
GOOD += "\n## [0.0.1] - 2026-01-01\n\n- Old.\n"


@pytest.mark.parametrize(
    ("named", "changelog", "said"),
    [
        (f"v{release.version()}", GOOD, ""),
        ("v99.0.0", GOOD, f"the tag is v99.0.0, fastgw/__init__.py says {release.version()}"),
        (release.version(), GOOD, "the tag is"),
        (f"v{release.version()}", GOOD.replace(" - 2026-12-01", ""), "CHANGELOG.md has no section"),
    ],
)
def test_a_tag_is_of_the_version_that_it_says(named: str, changelog: str, said: str) -> None:
    why = release.tag(named, changelog)
    assert said in why
    assert bool(said) == bool(why)


def test_notes_are_the_section_of_the_version() -> None:
    assert release.notes(GOOD) == "### Added\n\n- That.\n"


def test_a_folder_is_packed_the_same_each_time_and_sums_hold(tmp_path: Path) -> None:
    made = []
    for time in (1_000_000_000, 1_500_000_000):
        dist, to = tmp_path / f"dist-{time}", tmp_path / f"to-{time}"
        (dist / "fastgw-dir/lib").mkdir(parents=True)
        for name in (
            "fastgw",
            "fastgw.cdx.json",
            "THIRD-PARTY.txt",
            "fastgw-dir/fastgw",
            "fastgw-dir/lib/b",
            "fastgw-dir/lib/a",
        ):
            (dist / name).write_text(name)
            (dist / name).chmod(0o755 if name.endswith("fastgw") else 0o644)
        (dist / "fastgw-dir/lib").touch()
        release.pack(dist, to)
        made.append({path.name: path.read_bytes() for path in to.iterdir()})
    assert made[0] == made[1]
    (archive,) = to.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        inside = {
            member.name.partition("/")[2]: (member.mode, member.uid, member.uname) for member in packed if member.isfile()
        }
    assert inside == {"fastgw": (0o755, 0, ""), "lib/a": (0o644, 0, ""), "lib/b": (0o644, 0, "")}
    release.sums(to)
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=to, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == 4
    (to / archive.name).write_bytes(b"other")
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=to, capture_output=True, text=True, check=False)
    assert done.returncode == 1
