"""Error kinds: the code names none that is not in the table, and the table has none that nothing names."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from fastgw.errors import KINDS, PROFILE_KINDS, anthropic_body
from tests.architecture.sources import files, parsed

pytestmark = pytest.mark.once  # (it has no twin)


def trees() -> dict[Path, ast.Module]:
    return {path: parsed(path) for path in files("fastgw") if "sim" not in path.parts and path.name != "errors.py"}


def test_what_is_raised_is_a_row() -> None:
    unknown = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "GatewayError" and node.args:
                named = [one for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                unknown += [f"{path}:{one.lineno}: {one.value}" for one in named if one.value not in KINDS]
    assert unknown == []


def test_every_row_is_named_somewhere() -> None:
    words = {node.value for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert [name for name in KINDS if name not in words] == []


def test_profiles_change_rows_that_there_are() -> None:
    assert [name for kinds in PROFILE_KINDS.values() for name in kinds if name not in KINDS] == []


def test_in_anthropics_shape_errors_have_the_types_of_its_api() -> None:
    """By which clients branch: its SDKs have it as the `type` of what they raise."""
    known = {
        400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
        408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 502: "api_error",
        503: "api_error", 504: "timeout_error",
    }  # fmt: skip
    for kind in KINDS.values():
        said = json.loads(anthropic_body(kind))
        usual = "api_error" if kind.status > 500 else "invalid_request_error"
        assert (said["type"], said["error"]["type"]) == ("error", known.get(kind.status, usual)), kind.name
