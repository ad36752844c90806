"""Test that the coverage table in docs/explanation/audit.md is up to date. Run this module to write it."""

from __future__ import annotations

from pathlib import Path

from tests.audit.column_coverage import COVERAGE
from tests.benchmarks.page import between, table


def build_table() -> str:
    """Return the coverage table: a row for each table of the database."""
    lines = []
    for name, coverage in COVERAGE.items():
        reasons: dict[str, list[str]] = {}
        for column, reason in coverage.open.items():
            reasons.setdefault(reason, []).append(f"`{column}`")
        opened = "; ".join(f"{', '.join(columns)}: {reason}" for reason, columns in reasons.items())
        covered = [", ".join(f"`{each}`" for each in sorted(names)) for names in (coverage.proven, coverage.checked)]
        lines.append([f"`{name.removeprefix('convokit_')}`", *covered, opened])
    return table(["table", "proven", "checked", "open"], lines)


def test_coverage_table_matches_the_declarations(checkout: Path) -> None:
    """docs/explanation/audit.md has the table of tests/audit/column_coverage.py, which the tampering tests use."""
    page = (checkout / "docs" / "explanation" / "audit.md").read_text("utf-8")
    assert between(page, "coverage") == build_table(), "python -m tests.docs.test_coverage_table writes it"


if __name__ == "__main__":
    path = Path("docs/explanation/audit.md")
    text = path.read_text("utf-8")
    start, end = "<!-- coverage -->", "<!-- /coverage -->"
    before, _, rest = text.partition(start)
    path.write_text(f"{before}{start}\n\n{build_table()}\n\n{end}{rest.partition(end)[2]}", "utf-8")
