"""The page on proof says of each column what the program says."""

from __future__ import annotations

from pathlib import Path

from convokit.audit.column_coverage import COVERAGE
from tests.benchmarks.page import between, table


def shown() -> str:
    """Return the table of the page: a row for each table of the database."""
    lines = []
    for name, coverage in COVERAGE.items():
        reasons: dict[str, list[str]] = {}
        for column, reason in coverage.open.items():
            reasons.setdefault(reason, []).append(f"`{column}`")
        opened = "; ".join(f"{', '.join(columns)}: {reason}" for reason, columns in reasons.items())
        told = [", ".join(f"`{each}`" for each in sorted(names)) for names in (coverage.proven, coverage.checked)]
        lines.append([f"`{name.removeprefix('convokit_')}`", *told, opened])
    return table(["table", "proven", "checked", "open"], lines)


def test_the_page_says_what_the_program_says(checkout: Path) -> None:
    """The table of columns in docs/explanation/audit.md is the one that the code and the attack test go by."""
    page = (checkout / "docs" / "explanation" / "audit.md").read_text("utf-8")
    assert between(page, "coverage") == shown(), "python -m tests.audit.test_page writes it"


if __name__ == "__main__":
    path = Path("docs/explanation/audit.md")
    text = path.read_text("utf-8")
    start, end = "<!-- coverage -->", "<!-- /coverage -->"
    before, _, rest = text.partition(start)
    path.write_text(f"{before}{start}\n\n{shown()}\n\n{end}{rest.partition(end)[2]}", "utf-8")
