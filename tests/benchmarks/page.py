"""Tables for the documentation: made by a measurement, written between two marks of a page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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


def run(mark: str, main: Callable[..., str]) -> None:
    """Run a benchmark with the numbers of the command line, and with `--write PAGE` put its table between the page's marks."""
    given = sys.argv[1:]
    target = Path(given.pop()) if "--write" in given else None
    result = main(*map(int, given[: given.index("--write")] if target else given))
    if target is not None:
        put(target, mark, result)


def put(path: Path, mark: str, text: str) -> None:
    """Write `text` between the marks of a page."""
    page = path.read_text("utf-8")
    old = between(page, mark)
    start, end = f"<!-- {mark} -->\n\n", f"\n\n<!-- /{mark} -->"
    path.write_text(page.replace(f"{start}{old}{end}", f"{start}{text}{end}"), "utf-8")
