"""Define `convokit usage`: report tokens and costs of API calls."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from convokit import UsageReport
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit, read_database
from convokit.usage.models import Spending, UsageRow
from convokit.usage.sql import list_tenants

By = Literal["day", "model", "conversation", "tenant"]
Reports = Sequence[tuple[str, UsageReport]]
_AGE = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_LABELS = ("day", "model", "conversation_id", "key")
_FIGURES = tuple(name for name in Spending.model_fields if name not in ("cost", "known_cost"))
_CSV_HEADER = ("tenant", "day", "model", "conversation", "key", *_FIGURES, "cost", "known_cost")
_FIGURE_COLUMNS = ("calls", "prompt", "cached", "reply", "estimated", "cost")
_MAX_BAR_CELLS = 30
_MIN_BAR_CELLS = 4
_MAX_TENANT_CELLS = 12
# A narrower terminal has no cells for these columns beside a readable name.
_CACHED_COLUMNS = 60
_ESTIMATED_COLUMNS = 80


def usage(
    *,
    by: Annotated[By, typer.Option("--by", help="Group of each line.")] = "day",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="Start: 12h, 30d or 8w ago, or a date (UTC).")
    ] = "30d",
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="End, exclusive; default: now.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only the conversation with this key.")
    ] = None,
    subject: shared_options.Subject = None,
    all_tenants: shared_options.AllTenants = False,
    json: shared_options.Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Show the tokens and costs of API calls.

    Costs are US dollars, days are UTC. A cost that the server reported is used first, then the price list that
    `pip install 'convokit-sql[prices]'` installs.
    """
    if json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    query: dict[str, Any] = {"since": _parse_moment("--since", since), "until": _parse_moment("--until", until)}
    query |= {"key": key, "subject": subject, "by": "day" if by == "tenant" else by}
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        names = [tenant]
        if all_tenants:
            names = read_database(DatabaseOption(database), lambda connection: list(list_tenants(connection)))
        reports = [(name, kit.tenant(name).usage(**query)) for name in names]
    reports = [(name, report) for name, report in reports if report.total.calls]
    if json:
        output.print_json({"tenants": [{"tenant": name, **_dump_report(report, by)} for name, report in reports]})
    elif as_csv:
        _print_csv(reports, by)
    elif reports:
        _print_table(reports, by, with_tenant=all_tenants and by != "tenant")
        _print_notes([report for _, report in reports])
    else:
        output.print_note("no calls in that time")


def _parse_moment(option: str, text: str | None) -> datetime | None:
    """Return a time in UTC: an age counts back from now."""
    if text is None:
        return None
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{option} takes 12h, 30d, 8w or a date like 2026-01-31, not {text!r}") from None


def _dump_report(report: UsageReport, by: By) -> dict[str, Any]:
    dumped = report.model_dump(mode="json")
    labels = {"conversation_id", "key"} if report.by == "conversation" else {report.by}
    for row in (*dumped["rows"], dumped["total"]):
        for name in _LABELS:
            if name not in labels or (name == report.by and row.get(name) is None):
                row.pop(name, None)
    if by == "tenant":
        dumped.pop("rows")
    return {**dumped, "by": by}


def _print_csv(reports: Reports, by: By) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for tenant, report in reports:
        for row in [report.total] if by == "tenant" else report.rows:
            labels = [getattr(row, name, None) for name in _LABELS]
            figures = [getattr(row, name) for name in _FIGURES]
            costs = [None if cost is None else f"{cost:f}" for cost in (row.cost, row.known_cost)]
            writer.writerow([_escape_csv(value) for value in (tenant, *labels, *figures, *costs)])


def _escape_csv(value: object) -> object:
    """Return text as one safe line that a spreadsheet does not take for a formula."""
    if not isinstance(value, str):
        return value
    text = output.to_one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _print_table(reports: Reports, by: By, *, with_tenant: bool) -> None:
    console = output.get_console()
    table = _make_table(console, reports, by, 0, with_tenant=with_tenant)
    # The bars get the cells that names and figures leave.
    bar_cells = min(console.width - console.measure(table).maximum - 2, _MAX_BAR_CELLS)
    if bar_cells >= _MIN_BAR_CELLS:
        table = _make_table(console, reports, by, bar_cells, with_tenant=with_tenant)
    console.print(table)


def _make_table(console: Console, reports: Reports, by: By, bar_cells: int, *, with_tenant: bool) -> Table:
    rows = _list_rows(reports, by)
    totals = [report.total for _, report in reports]
    by_cost = all(total.cost is not None for total in totals) and any(total.known_cost for total in totals)
    weights = [float(sums.known_cost if by_cost else sums.prompt_tokens + sums.completion_tokens) for *_, sums in rows]
    bar_title = "by cost" if by_cost else "by tokens"
    bar_title = bar_title if len(bar_title) <= bar_cells else ""
    columns = ["tenant"] if with_tenant else []
    columns += [by, *_FIGURE_COLUMNS, *([bar_title] if bar_cells else [])]
    if console.width < _CACHED_COLUMNS + (_MAX_TENANT_CELLS + 2 if with_tenant else 0):
        columns.remove("cached")
    if console.width < _ESTIMATED_COLUMNS or not any(total.estimated_calls for total in totals):
        columns.remove("estimated")
    table = output.make_table(*columns, right=_FIGURE_COLUMNS, cut=(by,))
    for (tenant, name, sums), weight in zip(rows, weights, strict=True):
        cells: dict[str, Any] = {"tenant": output.fit_text(tenant, _MAX_TENANT_CELLS), by: output.make_cell(name)}
        cells |= {bar_title: output.make_bar(weight, max(weights), bar_cells), **_format_figures(sums)}
        table.add_row(*(cells[name] for name in columns))
    if len(rows) > 1 and len(reports) == 1:
        cells = {"tenant": "all", by: "total", bar_title: "", **_format_figures(totals[0])}
        table.add_row(*(cells[name] for name in columns), style="bold")
    return table


def _list_rows(reports: Reports, by: By) -> list[tuple[str, str, Spending]]:
    """Return the tenant, the name and the sums of each line."""
    if by == "tenant":
        return [(tenant, tenant, report.total) for tenant, report in reports]
    return [(tenant, _name_row(row), row) for tenant, report in reports for row in report.rows]


def _name_row(row: UsageRow) -> str:
    if row.conversation_id is not None:
        return row.key if row.key is not None else str(row.conversation_id)
    return row.day.isoformat() if row.day is not None else str(row.model)


def _format_figures(sums: Spending) -> dict[str, str]:
    figures = (
        f"{sums.calls:,}",
        _format_tokens(sums.prompt_tokens),
        _format_share(sums.cached_share),
        _format_tokens(sums.completion_tokens),
        _format_share(sums.estimated_share or None),
        _format_cost(sums),
    )
    return dict(zip(_FIGURE_COLUMNS, figures, strict=True))


def _format_tokens(count: int) -> str:
    """Return a count with at most four characters: "999", "1.5k", "120M"."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
    return str(count)


def _format_share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _format_cost(sums: Spending) -> str:
    """Return dollars; "+?" stands for calls of unknown price."""
    cost = sums.known_cost
    if sums.cost is None and not cost:
        return "?"
    if cost >= 1:
        shown = f"${cost:,.2f}"
    elif cost >= Decimal("0.00005") or not cost:
        shown = f"${cost:.4f}"
    else:
        shown = "<$0.0001"
    return shown if sums.cost is not None else f"{shown}+?"


def _print_notes(reports: Sequence[UsageReport]) -> None:
    """Note the calls that the table does not cover."""
    unknown = sorted({model for report in reports for model in report.unknown_models})
    unlisted = sum(report.unlisted for report in reports)
    uncounted = sum(report.total.uncounted_calls for report in reports)
    if unlisted:
        output.print_note(f"{unlisted:,} more conversations count in the total only")
    if uncounted:
        output.print_note(
            f"{output.format_count(uncounted, 'call')} without figures: failed, refused, or still running"
        )
    if unknown and all(report.prices == "none" for report in reports):
        output.print_note("no price list is installed: pip install 'convokit-sql[prices]'")
    elif unknown:
        names = ", ".join(output.to_one_line(name, 60) for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        output.print_note(f"no price is known for {names}{more}: the cost does not include their calls")
