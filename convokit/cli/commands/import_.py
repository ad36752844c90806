"""Define `convokit import`: read conversations from a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn

from convokit import Imported
from convokit.cli import options, output
from convokit.cli.connect import Database, open_kit
from convokit.transfer.models import ImportFormat


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Input file; - is stdin.")],
    *,
    format: Annotated[
        ImportFormat,
        typer.Option("--format", "-f", help="Export of convokit, ChatGPT's conversations.json, or message arrays."),
    ] = "jsonl",
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Key for the conversation of one message array.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and report invalid records.")] = False,
    json: options.Json = False,
    database: options.DatabaseUrl = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Read conversations from a file.

    Conversations that are already stored stay unchanged, so an interrupted import may be repeated.
    """
    with (
        open_kit(Database(database, tenant)) as kit,
        output.show_progress("importing", TaskProgressColumn()) as progress,
    ):
        source = sys.stdin.buffer if str(file) == "-" else file
        imported = kit.import_(
            source, format=format, key=key, on_error="skip" if skip_bad else "raise", progress=progress
        )
    if json:
        output.print_json(imported.model_dump(mode="json"))
    else:
        _print(imported)
    if imported.skipped:
        raise typer.Exit(1)


def _print(imported: Imported) -> None:
    counts = [
        f"{output.format_count(imported.conversations, 'conversation')}, {output.format_count(imported.messages, 'message')}"
    ]
    if imported.rechained:
        counts.append(f"{imported.rechained:,} of them from another database, with a new hash chain")
    if imported.unchanged:
        counts.append(f"{output.format_count(imported.unchanged, 'conversation')} already stored")
    output.get_console().print("; ".join(counts))
    for skipped in imported.problems:
        output.print_note(f"skipped, line {skipped.line:,}: {output.to_one_line(skipped.problem)}")
    if imported.skipped > len(imported.problems):
        output.print_note(f"and {imported.skipped - len(imported.problems):,} more")
