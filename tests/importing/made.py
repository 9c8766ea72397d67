"""What an import has made, as its user has it: the file read by the configuration's own reader, and each entry's outcome."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgw.config import Config, load
from fastgw.importing.draft import Draft
from fastgw.importing.report import Report, leaves


def taken(draft: Draft, folder: Path) -> Config:
    """The file, read as ``fastgw check`` does, each variable that it names being set."""
    assert draft.problems() == []
    path = folder / "fastgw.toml"
    path.write_text(draft.text(), encoding="utf-8")
    variables = {one["api_key_env"]: "k" for one in tomllib.loads(draft.text()).get("engines", ()) if "api_key_env" in one}
    return load({"config": str(path)}, variables, folder)


def outcomes(source: Mapping[Any, Any], report: Report) -> dict[tuple[Any, ...], str]:
    """Of each entry what became of it: each must have been told of, by itself or by what stands around it, nearest first."""
    told = {line.path: outcome for outcome, lines in report.lines.items() for line in lines}
    found = {}
    for leaf in leaves(source):
        around = [leaf[:length] for length in range(len(leaf), 0, -1) if leaf[:length] in told]
        assert around, f"nobody was told of {leaf}"
        found[leaf] = told[around[0]]
    return found
