"""`usage`: what calls took and cost, as a table with bars."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from convokit.cli import options
from convokit.cli.commands.db import looked_at
from convokit.cli.connect import Place, opened
from convokit.cli.output import fitted, note, one_line, out, print_json, table
from convokit.usage.models import Spending, UsageBy, UsageReport, UsageRow
from convokit.usage.prices import has_price_lists
from convokit.usage.sql import list_tenants

By = Literal["day", "model", "conversation", "tenant"]
_AGO = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_MOST_BAR = 30
_LEAST_BAR = 4
_LEAST_NAME = 16
_MOST_TENANT = 12
_PIPE = 500
_WIDE = 80
_BLOCKS = " ▏▎▍▌▋▊▉█"
_FIGURES = tuple(name for name in Spending.model_fields if name not in ("cost", "known_cost"))
_COLUMNS = ("tenant", "day", "model", "conversation", "key", *_FIGURES, "cost", "known_cost")


@dataclass(frozen=True, slots=True)
class _Line:
    """A row as people see it: whose it is, its name, its figures."""

    tenant: str
    name: str
    sums: Spending


def usage(
    *,
    by: Annotated[By, typer.Option("--by", help="What each line is about.")] = "day",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="From when on: 12h, 30d, 8w ago, or a date (UTC).")
    ] = "30d",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="WHEN", help="Up to when, not included; else now.", show_default=False),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only this conversation.", show_default=False)
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only this person's conversations.", show_default=False)
    ] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Those of every tenant in the database.")] = False,
    json: options.Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Show what calls took and cost: tokens, and US dollars where the price is known.

    Days are UTC. Prices come with `pip install 'convokit-sql[prices]'`; what a server says a call cost counts first.
    """
    if json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    asked: dict[str, Any] = {"since": _moment("--since", since), "until": _moment("--until", until)}
    asked |= {"key": key, "subject": subject, "by": "day" if by == "tenant" else by}
    found: list[tuple[str, UsageReport]] = []
    with opened(Place(database, tenant)) as kit:
        names = [tenant]
        if all_tenants:
            names = looked_at(Place(database), lambda connection: list(list_tenants(connection)))
        found += [(name, kit.tenant(name).usage(**asked)) for name in names]
    found = [(name, report) for name, report in found if report.total.calls]
    if json:
        print_json({"tenants": [{"tenant": name, **_as_json(report, by)} for name, report in found]})
    elif as_csv:
        _print_csv(found, by)
    elif found:
        _print(found, by, with_tenant=all_tenants and by != "tenant")
    else:
        note("no calls in that time")


def _moment(option: str, given: str | None) -> datetime | None:
    """Return the time that was meant, in UTC."""
    if given is None:
        return None
    ago = _AGO.fullmatch(given)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if len(given) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(given), time(), UTC)
        said = datetime.fromisoformat(given)
        return said.replace(tzinfo=said.tzinfo or UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{option} takes 12h, 30d, 8w or a date like 2026-01-31, not {given!r}") from None


def _as_json(report: UsageReport, by: By) -> dict[str, Any]:
    said = report.model_dump(mode="json")
    for row in (*said["rows"], said["total"]):
        if row.get(report.by) is None:  # only what the row is about
            row.pop(report.by, None)
        for name in {"day", "model", "conversation_id", "key"} - _labels(report.by):
            row.pop(name, None)
    if by == "tenant":
        said.pop("rows")
    return {**said, "by": by}


def _labels(by: UsageBy) -> set[str]:
    return {"conversation_id", "key"} if by == "conversation" else {by}


def _lines(tenant: str, report: UsageReport, by: By) -> list[_Line]:
    if by == "tenant":
        return [_Line(tenant, tenant, report.total)]
    return [_Line(tenant, _named(row), row) for row in report.rows]


def _named(row: UsageRow) -> str:
    if row.conversation_id is not None:
        return row.key if row.key is not None else str(row.conversation_id)
    return row.day.isoformat() if row.day is not None else str(row.model)


def _print_csv(found: Sequence[tuple[str, UsageReport]], by: By) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for tenant, report in found:
        for row in report.rows if by != "tenant" else [report.total]:
            named = row.model_dump(include={"day", "model", "conversation_id", "key"})
            labels = [named.get(name) for name in ("day", "model", "conversation_id", "key")]
            figures = [getattr(row, name) for name in _FIGURES]
            money = [None if amount is None else f"{amount:f}" for amount in (row.cost, row.known_cost)]
            writer.writerow([_plain(each) for each in (tenant, *labels, *figures, *money)])


def _plain(value: object) -> object:
    """Return a cell that no terminal obeys and no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _print(found: Sequence[tuple[str, UsageReport]], by: By, *, with_tenant: bool) -> None:
    console = out()
    lines = [line for tenant, report in found for line in _lines(tenant, report, by)]
    totals = [report.total for _, report in found]
    layout = _Layout.of(console, lines, totals, by, with_tenant=with_tenant)
    priced = all(each.cost is not None for each in totals) and any(each.known_cost for each in totals)
    weights = [Decimal(line.sums.known_cost if priced else _tokens(line.sums)) for line in lines]
    about = f"by {'cost' if priced else 'tokens'}"
    drawn = [[about if len(about) <= layout.bar else " "] if layout.bar else [], ["tenant"] if with_tenant else []]
    listing = table(*drawn[1], by, *layout.heads, *drawn[0], right=layout.heads)
    for line, weight in zip(lines, weights, strict=True):
        labels = [fitted(line.tenant, layout.tenant)] if with_tenant else []
        bar = [_bar(weight, max(weights), layout.bar, console)] if layout.bar else []
        listing.add_row(*labels, fitted(line.name, layout.name), *_figures(line.sums, layout.heads), *bar)
    if len(lines) > 1 and len(found) == 1:
        listing.add_row(*(["all"] if with_tenant else []), "total", *_figures(totals[0], layout.heads), style="bold")
    console.print(listing)
    _say(found)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What fits: figures are never cut; the bar gives way first, then how much came from the cache, then names."""

    heads: tuple[str, ...]
    tenant: int
    name: int
    bar: int

    @classmethod
    def of(
        cls, console: Console, lines: Sequence[_Line], totals: Sequence[Spending], by: By, *, with_tenant: bool
    ) -> _Layout:
        estimated = ("estimated",) if any(each.estimated_calls for each in totals) else ()
        heads = ("calls", "prompt", "cached", "reply", *(estimated if console.width >= _WIDE else ()), "cost")
        tenant = min(max(_cells(line.tenant) for line in lines), _MOST_TENANT) if with_tenant else 0
        name = max(len(by), *(_cells(line.name) for line in lines))
        if not console.is_terminal:
            return cls(heads, _PIPE, _PIPE, _MOST_BAR)
        sums = [*(line.sums for line in lines), *totals]

        def room() -> int:
            figures = [max(len(head), *(len(_figures(each, [head])[0]) for each in sums)) for head in heads]
            return console.width - sum(figures) - 2 * len(heads) - (tenant + 2 if with_tenant else 0)

        if room() < min(name, _LEAST_NAME):
            heads = tuple(head for head in heads if head != "cached")
        bar = min(room() - name - 2, _MOST_BAR)
        return cls(heads, tenant, max(min(name, room()), 1), bar if bar >= _LEAST_BAR else 0)


def _cells(text: str) -> int:
    return Text(one_line(text)).cell_len


def _tokens(sums: Spending) -> int:
    return sums.prompt_tokens + sums.completion_tokens


def _figures(sums: Spending, heads: Sequence[str]) -> list[str]:
    shown = {
        "calls": f"{sums.calls:,}",
        "prompt": _short(sums.prompt_tokens),
        "cached": _percent(sums.cached_share),
        "reply": _short(sums.completion_tokens),
        "estimated": _percent(sums.estimated_share or None),
        "cost": _money(sums),
    }
    return [shown[head] for head in heads]


def _short(count: int) -> str:
    """Return a number in four figures at most."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
    return str(count)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _money(sums: Spending) -> str:
    """Return what it cost; a plus where calls of unknown price come on top."""
    if sums.cost is None and not sums.known_cost:
        return "?"
    cost = sums.known_cost
    shown = f"${cost:,.2f}" if cost >= 1 else f"${cost:.4f}" if cost >= Decimal("0.00005") or not cost else "<$0.0001"
    return shown if sums.cost is not None else f"{shown}+?"


def _bar(weight: Decimal, most: Decimal, cells: int, console: Console) -> Text:
    eighths = int(weight / most * cells * 8) if most else 0
    if "utf" not in (console.encoding or "").lower():
        return Text("#" * ((eighths + 7) // 8))
    return Text("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip(), style="cyan")


def _say(found: Sequence[tuple[str, UsageReport]]) -> None:
    """Say what the table cannot."""
    unknown = sorted({model for _, report in found for model in report.unknown_models})
    unlisted = sum(report.unlisted for _, report in found)
    uncounted = sum(report.total.uncounted_calls for _, report in found)
    if unlisted:
        note(f"{unlisted:,} more conversations are in the total only")
    if uncounted:
        note(f"{uncounted:,} calls without figures: refused, failed, or on their way")
    if unknown and not has_price_lists():
        note("prices are not known: pip install 'convokit-sql[prices]'")
    elif unknown:
        names = ", ".join(one_line(name, 60) for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        note(f"no price is known of {names}{more}: their calls are not in the cost")
