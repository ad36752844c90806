"""The context as a person wants to see it: how full the budget is, what is in, what is out and by which rule."""

from __future__ import annotations

from rich.text import Text

from convokit import Context, Report
from convokit.cli.output import OTHER_ROLE, ROLE_STYLES, cell, one_line, out, table, wrapped
from convokit.context.report import Part

WINDOW_NOW = "what the model has in view after the last turn"
_BAR_CELLS = 60
_SEGMENTS = (
    ("#", "magenta", "developer prompt and fixed parts"),
    ("=", "cyan", "messages"),
    (".", "dim", "free"),
    ("-", "dim", "over the model's input limit"),
    ("~", "green", "kept for the reply"),
)
"""ASCII: block characters are two cells wide in some terminals."""


def print_context(context: Context, title: str) -> None:
    """Print the window: its budget, then its parts in order."""
    console, report = out(), context.report
    console.print(Text(one_line(title), style="bold"))
    console.print(_bar(report, max(10, min(_BAR_CELLS, console.width - 2))))
    wrapped(console, Text(_legend(report), style="dim"))
    console.print()
    rules = any(part.rule for part in report.parts)
    columns = ("#", "role", "tokens", "sent", "excerpt", *(("explanation",) if rules else ()))
    listing = table(*columns, right=("#", "tokens"), cut=("excerpt", "explanation"))
    for part in report.parts:
        row: list[str | Text] = [
            "" if part.key is None else str(part.key),
            Text(_name(part), style=ROLE_STYLES.get(part.role, OTHER_ROLE) if part.included else "dim"),
            f"{part.tokens:,}",
            Text("yes") if part.included else Text("no", style="yellow"),
            cell(part.excerpt, "" if part.included else "dim"),
        ]
        listing.add_row(*row, *((cell(part.rule, "dim"),) if rules else ()))
    console.print(listing)
    console.print()
    for line in (_window(report), _cache(report), _last_call(report)):
        if line:
            wrapped(console, Text(line))


def _name(part: Part) -> str:
    return one_line(part.role if part.kind in ("message", "developer_prompt") else part.kind.replace("_", " "))


def _bar(report: Report, width: int) -> Text:
    bar = Text("[")
    for (mark, style, _), cells in zip(_SEGMENTS, _cells(_amounts(report), width), strict=True):
        bar.append(mark * cells, style=style)
    return bar.append("]")


def _amounts(report: Report) -> tuple[int, ...]:
    """Return how much of the window each segment takes. What a model takes as input may be less than window and reply leave."""
    fixed = min(report.fixed_tokens, report.tokens)
    history = report.tokens - fixed
    rest = max(report.context_tokens - report.tokens - report.reply_tokens, 0)
    free = min(max(report.available - history, 0), rest)
    return fixed, history, free, rest - free, report.reply_tokens


def _cells(amounts: tuple[int, ...], width: int) -> list[int]:
    """Return how many cells each amount gets: at least one if it is there at all, `width` together."""
    total = sum(amounts) or 1
    cells = [max(1, amount * width // total) if amount else 0 for amount in amounts]
    largest = max(range(len(cells)), key=lambda index: cells[index])
    cells[largest] += width - sum(cells)
    return cells


def _legend(report: Report) -> str:
    parts = [
        f"{mark} {amount:,} {name}"
        for (mark, _, name), amount in zip(_SEGMENTS, _amounts(report), strict=True)
        if amount or mark != "-"
    ]
    of = "" if report.model is None else f" of {one_line(report.model)}"
    return f"{report.context_tokens:,} tokens{of}: {', '.join(parts)}; counted by {one_line(report.counter)}"


def _window(report: Report) -> str:
    begins = "" if report.start is None else f"; it begins with message {report.start}"
    left = f"; {report.dropped_tokens:,} tokens before it stay out" if report.dropped_tokens else ""
    return f"window: {report.rule}{begins}{left}{_moves(report.moves_in_tokens)}"


def _moves(tokens: int | None) -> str:
    if tokens is None:
        return ""
    return f"; its start moves after {tokens:,} more tokens of messages" if tokens else "; its start moves next"


def _cache(report: Report) -> str:
    if not report.stable_tokens:
        return "cache: nothing expected: no request before this one had its model and budget"
    return (
        f"cache: the first {report.stable_tokens:,} of {report.tokens:,} prompt tokens were in the request before too"
    )


def _last_call(report: Report) -> str:
    last = report.last_call
    return (
        "" if last is None else f"last call: {from_cache(last.prompt_tokens, last.cached_tokens, last.expected_tokens)}"
    )


def from_cache(prompt: int | None, cached: int | None, expected: int) -> str:
    """Say how much of a prompt came from the server's cache, beside what was expected."""
    if prompt is None:
        return f"the server did not say what its prompt took (expected from cache: {expected:,} tokens)"
    if cached is None:
        return f"{prompt:,} prompt tokens; the server did not say how many from cache (expected {expected:,})"
    return f"{cached:,} of {prompt:,} prompt tokens from cache (expected {expected:,})"
