"""What MkDocs is told about this repository: which pages there are beside ``docs/``, and where links between them lead.

A page is written for a code host, its links are paths in the repository. Here pages outside of ``docs/`` (``BESIDE``) become
pages of the site, other files that are linked are copied below ``source/``, and each link is turned into the way to either.
Anchors are made as a code host makes them. Must never: let a page ask another host for a script, a font or a picture.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
MERMAID: Final = ROOT / "build" / "docs" / "mermaid.min.js"
SCRIPT: Final = "assets/mermaid.min.js"

BESIDE: Final = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/scale/README.md": "benchmarks-scale.md",
}
"""Pages that lie elsewhere in the repository, and their names in the site."""
FOLDERS: Final = {
    "decisions": ("Decisions", "Why things are as they are and not otherwise, each with what was tried and measured."),
    "recipes": (
        "Recipes",
        "How to add one more of what there is already, step by step; a test follows each from its page alone.",
    ),
}
"""Folders of ``docs/`` whose pages are all of a kind: the navigation has them as they come, behind a page that lists them."""

LINK: Final = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE: Final = re.compile(r"^(```\w*\n.*?^```\n?)", re.MULTILINE | re.DOTALL)


def _title(page: Path) -> str:
    """Its first heading, as plain text."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "") if found else page.stem


def pages_of(folder: str) -> list[Path]:
    return sorted((DOCS / folder).glob("*.md"))


def listing(folder: str) -> str:
    """The page of a folder: its pages by their titles."""
    title, what = FOLDERS[folder]
    rows = "".join(f"- [{_title(page)}]({page.name})\n" for page in pages_of(folder))
    return f"# {title}\n\n{what}\n\n{rows}"


def place(path: str) -> str:
    """Where a file of the repository stands in the site: ``docs/`` is its root, the rest is a page beside, or a source."""
    if path in BESIDE:
        return BESIDE[path]
    inside = posixpath.relpath(path, "docs") if path == "docs" or path.startswith("docs/") else ""
    if inside in FOLDERS:
        return f"{inside}/index.md"
    return inside or f"source/{path}"


def origin(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((path for path, name in BESIDE.items() if name == uri), f"docs/{uri}")


def linked(text: str, page: str) -> dict[str, str]:
    """The links of a page, by what it says: the path in the repository that each means."""
    outside = "".join(FENCE.split(text)[::2])
    found = {match["path"] for match in LINK.finditer(outside)}
    return {path: posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) for path in found}


def moved(text: str, page: str) -> str:
    """A page with its links as the site has them."""
    meant = linked(text, page)
    here = posixpath.dirname(place(page))

    def way(match: re.Match[str]) -> str:
        return posixpath.relpath(place(meant[match["path"]]), here or ".") + (match["anchor"] or "")

    pieces = FENCE.split(text)
    pieces[::2] = [LINK.sub(way, piece) for piece in pieces[::2]]
    return "".join(pieces)


def sources() -> set[str]:
    """What pages link to and is no page: files of the repository, by path."""
    pages = [*BESIDE, *(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]
    found = {path for page in pages for path in linked((ROOT / page).read_text(encoding="utf-8"), page).values()}
    return {path for path in found if place(path).startswith("source/") and (ROOT / path).is_file()}


def on_config(config: Any) -> Any:
    from pymdownx.slugs import slugify
    from pymdownx.superfences import fence_code_format

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    # Without the script diagrams are shown as they are written: the theme would ask another host for it.
    if MERMAID.exists():
        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    for section in config.nav:
        for entries in section.values():
            for folder in [one for one in entries if isinstance(one, str) and one.rstrip("/") in FOLDERS]:
                name = folder.rstrip("/")
                at = entries.index(folder)
                entries[at : at + 1] = [f"{name}/index.md", *(f"{name}/{page.name}" for page in pages_of(name))]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    made = {name: ROOT / path for path, name in BESIDE.items()} | {f"source/{path}": ROOT / path for path in sources()}
    made |= {SCRIPT: MERMAID} if MERMAID.exists() else {}
    for uri, path in made.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for folder in FOLDERS:
        files.append(File.generated(config, f"{folder}/index.md", content=listing(folder)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    return markdown if uri.rpartition("/")[0] in FOLDERS and uri.endswith("/index.md") else moved(markdown, origin(uri))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Only a page that has a diagram takes the script that draws it, before the theme looks for one."""
    if 'class="mermaid"' not in output:
        return output
    script = os.path.relpath(SCRIPT, page.url or ".")
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)
