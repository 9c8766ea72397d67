"""``/dashboard``: a page for browsers that shows what the gateway does. It is anybody's who gets to the listener, and holds
nothing: what it shows it asks the admin API for, with the key that its reader types.

Owns: its files, which lie in ``page/`` as they are sent, and what a browser may do with them. The chart library is that of the
extra ``dashboard``, taken from where it is installed; without it the page draws for itself. Must never: let a browser run, load
or send to anything that is not ours (the policy below), or be shown in another page's frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.control.routes import Role, Route

PAGE: Final = Path(__file__).with_name("page")
SCRIPTS: Final = ("page", "figures", "gateway", "keys", "plots", "tables")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
FIELDS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # an upgrade's page is not the last one's
}


class _File(NamedTuple):
    path: str
    media_type: str
    place: Path | None
    """None = there is none, and an empty one is sent."""


def charts() -> Path | None:
    """Where the chart library's files are, or None."""
    found = find_spec("youplot")  # (it has uPlot as its makers built it; found, and not imported)
    places = found.submodule_search_locations if found is not None else None
    return next((Path(place) / "vendor" for place in places or ()), None)


def _files() -> list[_File]:
    library = charts()
    script, style = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
    return [
        _File("/dashboard", "text/html; charset=utf-8", PAGE / "page.html"),
        _File("/dashboard/page.css", style, PAGE / "page.css"),
        *(_File(f"/dashboard/{name}.js", script, PAGE / f"{name}.js") for name in SCRIPTS),
        _File("/dashboard/charts.css", style, library and library / "uplot.min.css"),
        _File("/dashboard/charts.js", script, library and library / "uplot.iife.min.js"),
    ]


class Dashboard:
    """Answers those paths. Files are read when they are first asked for."""

    def __init__(self) -> None:
        self._files = {one.path: one for one in _files()}
        self._read: dict[str, bytes] = {}

    def routes(self) -> list[Route]:
        """What is answered here."""
        summary = "A page for browsers that shows what the gateway does"
        return [
            Route("GET", one.path, Role.OPEN, f"dashboard{number or ''}", self.show, summary, {200: one.media_type})
            for number, one in enumerate(self._files.values())
        ]

    async def show(self, call: AdminCall) -> AdminAnswer:
        one = self._files[call.path]
        text = self._read.get(one.path)
        if text is None:
            text = self._read[one.path] = one.place.read_bytes() if one.place is not None else b""
        return AdminAnswer(200, text, dict(FIELDS), media_type=one.media_type)
