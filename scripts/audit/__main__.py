"""``make audit``: what fastgw ships with, and what it is worked on with, held against the rules.

    python -m scripts.audit                 everything; needs the package registry and a source of vulnerabilities
    python -m scripts.audit --offline       what can be said without the network; the rest is named, not passed over
    python -m scripts.audit --osv-url URL   ask this OSV endpoint (a mirror) for vulnerabilities, and no other

Exit status 0: all was checked, and nothing failed (with --offline: nothing failed). 1: something failed. 3: nothing failed,
but something could not be checked. Through make both are make's own status 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from scripts.audit import lockfile, rules, tree
from scripts.audit.fetch import fetch_all
from scripts.audit.floors import floors
from scripts.audit.licences import judge
from scripts.audit.project import ROOT, TARGETS, Asked, Distribution, asked, closure, here, in_wheels, installed
from scripts.audit.report import Section, verdict
from scripts.audit.resolve import Unreachable, Unsolvable, compare, resolve
from scripts.audit.vulnerabilities import check

OFFLINE = "the audit ran offline"


class Audit:
    """The questions, in the order in which they are asked; each returns its section."""

    def __init__(self, offline: bool, osv_url: str) -> None:
        self.offline = offline
        self.osv_url = osv_url
        self.asked: Asked = asked()
        self.installed = installed()
        self.locks = lockfile.read()
        # What is known of the pinned versions: from their own wheels where those could be had, else from what is installed.
        self.known: dict[str, Distribution] = dict(self.installed)
        work = closure(self.asked.work, self.installed, here(), "pyproject.toml")
        self.work = {name: self.installed[name].version for name in sorted(work.wanted) if name in self.installed}
        self.work_missing = sorted(work.unknown)

    def floors(self) -> Section:
        return floors(self.asked, self.locks.versions(), self.installed, {*self.work})

    def hashes(self) -> Section:
        section = Section("locks", f"is all that fastgw ships with pinned and hashed, for {len(TARGETS)} targets?")
        section.failed += lockfile.form(self.locks)
        if self.offline:
            section.unchecked.append(f"whether the registry has what the locks name ({OFFLINE})")
        elif not section.failed:
            self._registry(section)
            self._download(section)
        unknown: set[str] = set()
        for name, pins, wanted in (
            ("runtime.lock", list(self.locks.runtime.pins), self.asked.runtime),
            ("extras.lock", self.locks.shipped, self.asked.shipped),
            ("build.lock", list(self.locks.build.pins), self.asked.build),
            ("binary.lock", self.locks.making, (*self.asked.build, *self.asked.binary)),
            *((f"{name}.lock", list(lock.pins), self.asked.tools[name]) for name, lock in self.locks.tools.items()),
        ):
            complete = lockfile.complete(name, pins, wanted, self.known)
            section.failed += complete.mistakes
            unknown |= complete.unknown
        if unknown:
            section.unchecked.append(f"what these need, their metadata is not here: {', '.join(sorted(unknown))}")
        if not section.failed:
            section.fine.append(f"{len(self._pins())} distributions, {sum(len(pin.hashes) for pin in self._pins())} files")
        return section

    def _pins(self) -> list[lockfile.Pin]:
        return list(dict.fromkeys([*self.locks.shipped, *self.locks.making, *self._tools()]))

    def _tools(self) -> list[lockfile.Pin]:
        return [pin for lock in self.locks.tools.values() for pin in lock.pins]

    def _registry(self, section: Section) -> None:
        """Resolved again with the pinned versions, the registry lists the same files."""
        before = len(section.failed)
        try:
            for name, pins, wanted in (
                ("shipped", self.locks.shipped, self.asked.shipped),
                ("binary.lock", self.locks.making, [*self.asked.build, *self.asked.binary]),
                *((f"{name}.lock", lock.pins, self.asked.tools[name]) for name, lock in self.locks.tools.items()),
            ):
                mistakes, notes = compare(pins, resolve(wanted, {pin.name: pin.version for pin in pins}))
                section.failed += [f"{name}: {mistake}" for mistake in mistakes]
                section.lines += [f"note: {note}; `make lock` adds it" for note in notes]
        except Unsolvable as error:
            section.failed.append(f"the locked versions do not fulfil pyproject.toml: {error}")
        except Unreachable as error:
            section.unchecked.append(f"the registry's list of files could not be had: {error}")
        else:
            if len(section.failed) == before:
                section.fine.append("the registry lists every locked file, source distributions too")

    def _download(self, section: Section) -> None:
        with tempfile.TemporaryDirectory(prefix="fastgw-audit-") as folder:
            for target, failed, unreached in fetch_all(TARGETS, self._pins(), Path(folder)):
                if failed:
                    section.failed.append(f"{target}: {failed}")
                elif unreached:
                    section.unchecked.append(f"{target}: the registry could not be reached: {unreached}")
                else:
                    wheels = in_wheels(Path(folder) / str(target))
                    self.known.update(wheels)
                    section.fine.append(f"{target}: pip downloads {len(wheels)} wheels, and each is what the lock says")

    def licences(self) -> Section:
        section = Section("licences", "does everything shipped come under a permissive licence?")
        rows = []
        unknown = []
        for pin in sorted(self.locks.shipped):
            one = self.known.get(pin.name)
            if one is None or one.version != pin.version:
                unknown.append(f"{pin.name} {pin.version}")
                continue
            judged = judge(one)
            rows.append((pin.name, pin.version, judged.said, judged.note))
            if judged.problem:
                section.failed.append(f"{pin.name} {pin.version} {judged.problem}")
        section.table(("distribution", "version", "licence", "note"), rows)
        if unknown:
            section.unchecked.append(f"the metadata of these is not here: {', '.join(unknown)}")
        if not section.failed:
            section.fine.append(f"{len(rows)} distributions")
        return section

    def vulnerabilities(self) -> Section:
        section = Section("vulnerabilities", "is one known in the locked versions, or in what fastgw is worked on with?")
        shipped = self.locks.versions() | {pin.name: pin.version for pin in self.locks.making}
        tools = {pin.name: pin.version for pin in self._tools() if pin.name not in shipped}
        work = {name: v for name, v in self.work.items() if (shipped | tools).get(name) != v}
        sets = {"shipped": shipped, "tools": tools, "worked with": work}
        if self.work_missing:
            section.lines.append(f"not installed here, so not asked about: {', '.join(self.work_missing)}")
        if self.offline:
            section.unchecked.append(f"{OFFLINE}: none of {sum(map(len, sets.values()))} versions was asked about")
            return section
        checked = check(sets, self.osv_url)
        if not checked.source:
            section.unchecked.append(f"no source could be reached: {'; '.join(checked.obstacles)}")
        for title, answer in checked.answers.items():
            section.failed += [f"{title}: {one}" for one in answer.found]
            section.unchecked += [f"{title}: {name} ({why})" for name, why in answer.silent.items()]
            known = len(sets[title]) - len(answer.silent)
            section.fine.append(f"{title}: {known} versions known at {checked.source}, {len(answer.found)} vulnerabilities")
        return section

    def tree(self) -> Section:
        section = Section("tree", "is it all fastgw's own, text, and without secrets?")
        paths = tree.files(ROOT)
        if paths is None:
            section.unchecked.append("this is no git checkout")
            return section
        for path in paths:
            section.failed += tree.judge(path, (ROOT / path).read_bytes())
        if not section.failed:
            section.fine.append(f"{len(paths)} files; {len(rules.NOT_SECRET)} text that only looks like a key")
        return section


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.audit", description="See the head of scripts/audit/__main__.py.")
    parser.add_argument("--offline", action="store_true", help="ask nobody; what is not checked is named, and passes")
    parser.add_argument("--osv-url", default="", metavar="URL", help="the OSV endpoint to ask for vulnerabilities")
    options = parser.parse_args(arguments)
    audit = Audit(options.offline, options.osv_url)
    sections = []
    # Locks before licences: they bring the metadata of exactly the pinned versions.
    for ask in (audit.floors, audit.hashes, audit.licences, audit.vulnerabilities, audit.tree):
        sections.append(ask())
        print(f"{sections[-1]}\n", flush=True)
    status, text = verdict(sections, options.offline)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
