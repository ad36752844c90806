"""Tables for the documentation: made by a measurement, written between two marks of a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")
    )


def between(page: str, mark: str) -> str:
    """Return what stands between the marks `<!-- mark -->` and `<!-- /mark -->`."""
    _, _, rest = page.partition(f"<!-- {mark} -->\n")
    inside, found, _ = rest.partition(f"<!-- /{mark} -->")
    assert found, f"the page has no marks {mark!r}"
    return inside.strip("\n")


def put(path: Path, mark: str, text: str) -> None:
    """Write `text` between the marks of a page."""
    page = path.read_text("utf-8")
    old = between(page, mark)
    start, end = f"<!-- {mark} -->\n\n", f"\n\n<!-- /{mark} -->"
    path.write_text(page.replace(f"{start}{old}{end}", f"{start}{text}{end}"), "utf-8")
