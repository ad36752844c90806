"""Define `convokit import`: read conversations from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn

from convokit import Imported
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit
from convokit.transfer.models import ImportFormat


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files, folders or ZIP archives; - is stdin.")],
    *,
    format: Annotated[
        ImportFormat,
        typer.Option(
            "--format",
            "-f",
            help="jsonl is convokit's, chatgpt, claude, openwebui are exports, messages, openai are arrays.",
        ),
    ] = "jsonl",
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Key for one imported conversation.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Text before the keys in the file; may be empty.")
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Restore a backup of your own: also ids, settings and instructions.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show what would be imported.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and report invalid records.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Read conversations from files.

    Conversations that are already stored stay unchanged, so an interrupted import may be repeated.
    """
    is_stdin = [str(file) for file in files] == ["-"]
    with (
        open_kit(DatabaseOption(database, tenant), read_only=dry_run) as kit,
        output.show_progress("importing", TaskProgressColumn()) as progress,
    ):
        imported = kit.import_(
            sys.stdin.buffer if is_stdin else files,
            format=format,
            key=key,
            prefix=prefix,
            trusted=trusted,
            dry_run=dry_run,
            on_error="skip" if skip_bad else "raise",
            progress=progress,
        )
    if json:
        output.print_json(imported.model_dump(mode="json"))
    else:
        _print(imported, dry_run=dry_run, several=len(files) > 1)
    if imported.skipped:
        raise typer.Exit(1)


def _print(imported: Imported, *, dry_run: bool, several: bool) -> None:
    counts = [
        f"{output.format_count(imported.conversations, 'conversation')}, {output.format_count(imported.messages, 'message')}"
    ]
    if imported.rechained:
        counts.append(f"{imported.rechained:,} of them from another database, with a new hash chain")
    if imported.unchanged:
        counts.append(f"{output.format_count(imported.unchanged, 'conversation')} already stored")
    output.get_console().print(f"{'would import ' if dry_run else ''}{'; '.join(counts)}")
    if imported.left_out:
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in imported.left_out.items())
        output.print_note(f"left out: {kinds}")
    for skipped in imported.problems:
        place = f"{skipped.file}, line" if several else "line"
        output.print_note(f"skipped, {place} {skipped.line:,}: {output.to_one_line(skipped.problem)}")
    if imported.skipped > len(imported.problems):
        output.print_note(f"and {imported.skipped - len(imported.problems):,} more")
