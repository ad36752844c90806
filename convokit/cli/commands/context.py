"""Define `convokit context`: show the next request and its token budget."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convokit import Budget, Context, Report, Summary
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, ModelSource, find_chat, open_kit
from convokit.context import Part

_MAX_BAR_CELLS = 40
# The other columns of the budget, with counts up to a million tokens.
_BUDGET_CELLS = 46


def context(
    conversation: shared_options.Conversation = None,
    *,
    text: Annotated[str | None, typer.Option("--text", "-t", metavar="TEXT", help="Next question.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Use a rolling summary with default settings.")] = False,
    context_tokens: Annotated[
        int | None, typer.Option("--context-tokens", metavar="N", help="Size of the model's context window.")
    ] = None,
    local: shared_options.Local = False,
    gguf: shared_options.Gguf = None,
    model: shared_options.Model = None,
    base_url: shared_options.BaseUrl = None,
    profile: shared_options.Profile = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Show the context of the next request.

    Lists the messages that would be sent, and the ones that would stay out with the reason. No model is called, and nothing is
    stored.
    """
    source = ModelSource(local, gguf, model, base_url, profile)
    target = DatabaseOption(database, tenant)
    if source.local:
        with open_kit(target, read_only=True) as kit:
            find_chat(kit, conversation)  # fail before a model is started
    with source.serve() as settings, open_kit(target, read_only=True, **settings) as kit:
        # The model of this command replaces the one that is stored with the chat.
        chat_settings: dict[str, Any] = {name: settings[name] for name in ("model",) if name in settings}
        if context_tokens is not None:
            chat_settings["budget"] = Budget(context_tokens=context_tokens)
        chat = find_chat(kit, conversation, **chat_settings)
        built = chat.context(text, summary=Summary() if summary else None)
    if json:
        output.print_json({"messages": built.messages, "report": built.report.model_dump(mode="json")})
        return
    name = chat.key if chat.key is not None else str(chat.id)
    print_context(built, f"{name}: context {'after the last turn' if text is None else 'with this question'}")


def print_context(built: Context, title: str) -> None:
    """Print the budget of a context, its parts in order, and its cache figures."""
    console, report = output.get_console(), built.report
    console.print(Text(output.to_one_line(title), style="bold"))
    _print_budget(console, report)
    console.print()
    _print_parts(console, report)
    console.print()
    for line in (_describe_window(report), _describe_cache(report)):
        output.print_wrapped(console, Text(line))
    if report.hint is not None:
        output.print_wrapped(console, Text(report.hint, style="yellow"))
    if (last := report.last_call) is not None:
        cached = describe_cached(last.prompt_tokens, last.cached_tokens, last.expected_tokens)
        output.print_wrapped(console, Text(f"last call: {cached}"))


def _print_budget(console: Console, report: Report) -> None:
    model = "" if report.model is None else f" of {output.to_one_line(report.model)}"
    counted = _describe_counter(report)
    output.print_wrapped(console, Text(f"{report.context_tokens:,} tokens{model}, {counted}", style="dim"))
    fixed = min(report.fixed_tokens, report.tokens)
    messages = report.tokens - fixed
    rest = max(report.context_tokens - report.tokens - report.reply_tokens, 0)
    free = min(max(report.available - messages, 0), rest)
    parts = [
        ("developer prompt, tools", fixed, "magenta"),
        ("messages", messages, "cyan"),
        ("free", free, "default"),
        ("above the input limit", rest - free, "default"),
        ("kept for the reply", report.reply_tokens, "green"),
    ]
    if rest == free:  # only some models take less input than their window less the reply
        del parts[3]
    cells = max(min(console.width - _BUDGET_CELLS, _MAX_BAR_CELLS), 1)
    table = output.make_table("part", "tokens", "share", "", right=("tokens", "share"))
    start = 0
    for name, tokens, color in parts:
        # A bar starts where the previous one ends.
        bar = output.make_bar(tokens, report.context_tokens, cells, color, start=start)
        table.add_row(name, f"{tokens:,}", f"{tokens / report.context_tokens:.0%}", bar)
        start += tokens
    room = report.available + report.fixed_tokens
    used = output.make_bar(report.tokens, max(room, 1), cells, "yellow" if report.hint else "cyan")
    table.add_row(f"used of {room:,}", f"{report.tokens:,}", f"{report.fill}%", used)
    console.print(table)


def _describe_counter(report: Report) -> str:
    """Return who counted, and what the counts were multiplied by."""
    counter = output.to_one_line(report.counter)
    source = {
        "exact": "",
        "reported": f", times {report.factor:g} as the server reported",
        "refusal": f", times {report.factor:g} as the server refused",
        "estimate": ", an estimate" if report.factor == 1 else f", an estimate, times {report.factor:g}",
    }
    return f"counted by {counter}{source[report.factor_source]}"


def _print_parts(console: Console, report: Report) -> None:
    has_rules = any(part.rule for part in report.parts)
    columns = ("#", "role", "tokens", "sent", "excerpt", *(("why",) if has_rules else ()))
    table = output.make_table(*columns, right=("#", "tokens"), cut=("excerpt", "why"))
    for part in report.parts:
        table.add_row(
            "" if part.key is None else str(part.key),
            Text(
                _name_part(part),
                style=output.get_role_style(part.role) if part.included else "dim",
            ),
            f"{part.tokens:,}",
            Text("yes") if part.included else Text("no", style="yellow"),
            output.make_cell(part.excerpt, "" if part.included else "dim"),
            *((output.make_cell(part.rule, "dim"),) if has_rules else ()),
        )
    console.print(table)


def _name_part(part: Part) -> str:
    return output.to_one_line(
        part.role if part.kind in ("message", "developer_prompt") else part.kind.replace("_", " ")
    )


def _describe_window(report: Report) -> str:
    parts = [f"window: {report.rule}"]
    if report.start is not None:
        parts.append(f"it starts with message {report.start}")
    if report.dropped_tokens:
        parts.append(f"{report.dropped_tokens:,} tokens before it are left out")
    if report.moves_in_tokens:
        parts.append(f"its start moves after {report.moves_in_tokens:,} more tokens of messages")
    elif report.moves_in_tokens == 0:
        parts.append("its start moves with the next message")
    return "; ".join(parts)


def _describe_cache(report: Report) -> str:
    if not report.stable_tokens:
        return "cache: no hit expected, because no earlier request had this model and budget"
    return f"cache: the previous request had the first {report.stable_tokens:,} of {report.tokens:,} prompt tokens"


def describe_cached(prompt: int | None, cached: int | None, expected: int) -> str:
    """Return how many prompt tokens came from the server's cache, and how many were expected to."""
    if prompt is None:
        return f"the server reported no prompt tokens (expected from cache: {expected:,} tokens)"
    if cached is None:
        return f"{prompt:,} prompt tokens; the server reported no cached tokens (expected {expected:,})"
    return f"{cached:,} of {prompt:,} prompt tokens from cache (expected {expected:,})"
