"""The table of panels as Grafana's JSON (its dashboard model, schema 39): the same bytes each time.

Owns: how a panel looks and where it stands. Grafana has no schema that could be held against this offline, so only what its
documentation names is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from scripts.monitoring.panels import DASHBOARDS, Dashboard, Panel

FOLDER: Final = Path(__file__).parents[2] / "deploy/grafana/dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}  # deploy/grafana/provisioning/datasources
WIDTH: Final = 24
A_ROW: Final = 3  # panels beside each other
A_STAT_ROW: Final = 4


def _target(at: int, legend: str, expression: str) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend,
        "exemplar": "_bucket" in expression,
    }  # fmt: skip


def _panel(panel: Panel, number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    look: dict[str, Any] = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
        if panel.stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    custom = {} if panel.stat else {"custom": {"fillOpacity": 8, "showPoints": "never", "spanNulls": False}}
    return {
        "id": number, "type": "stat" if panel.stat else "timeseries", "title": panel.title, "description": panel.help,
        "datasource": SOURCE, "gridPos": {"x": x, "y": y, "w": width, "h": height}, "options": look,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **custom}, "overrides": []},
        "targets": [_target(at, *query) for at, query in enumerate(panel.queries)],
    }  # fmt: skip


def _variable(name: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {name})"
    return {
        "name": name, "type": "query", "datasource": SOURCE, "definition": query, "query": {"query": query, "refId": name},
        "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def made(dashboard: Dashboard) -> dict[str, Any]:
    """What Grafana reads."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, section in dashboard.sections:
        row = {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
        panels.append({**row, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        y += 1
        beside, height = (A_STAT_ROW, 4) if section[0].stat else (A_ROW, 8)
        width = WIDTH // beside
        for at, panel in enumerate(section):
            panels.append(_panel(panel, len(panels) + 1, at % beside * width, y + at // beside * height, width, height))
        y += -(-len(section) // beside) * height
    return {
        "uid": dashboard.uid, "title": dashboard.title, "tags": ["fastgw"], "schemaVersion": 39, "editable": False,
        "time": {"from": "now-1h", "to": "now"}, "refresh": "15s", "timezone": "browser",
        "templating": {"list": [_variable(*one) for one in dashboard.variables]}, "panels": panels,
        "links": [{"type": "dashboards", "tags": ["fastgw"], "title": "fastgw", "asDropdown": False, "keepTime": True}],
    }  # fmt: skip


def pages() -> dict[str, str]:
    """Each dashboard's file, and what is in it."""
    return {name: json.dumps(made(one), indent=1, ensure_ascii=False) + "\n" for name, one in DASHBOARDS.items()}
