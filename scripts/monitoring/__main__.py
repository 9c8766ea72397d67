"""Write the dashboards: ``python -m scripts.monitoring`` (``make docs`` does it too)."""

from __future__ import annotations

from scripts.monitoring.dashboards import FOLDER, pages


def main() -> None:
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
