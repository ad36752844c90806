"""Define `convokit audit`: write checkpoints for `convokit verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from convokit.cli import output, shared_options
from convokit.cli.commands.verify import read_key_file
from convokit.cli.connect import DatabaseOption, open_kit, warn_if_readable

audit = typer.Typer(
    cls=TyperGroup, help="Write checkpoints for `verify --against`.", no_args_is_help=True, rich_markup_mode=None
)


@audit.command()
def checkpoint(
    *,
    key_file: Annotated[
        Path, typer.Option("--key-file", metavar="FILE", help="File with the secret to sign with: at least 16 bytes.")
    ],
    output_file: shared_options.OutputFile = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Write a signed list of the chain heads of the tenant's conversations.

    Keep the list and the secret where nobody who can write the database can write. `verify --against` compares with it.
    """
    if json and output_file is None:
        raise typer.BadParameter("--json describes the written file: name one with --output")
    key = read_key_file(key_file)
    path = None if output_file is None else output_file.expanduser()
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        written = kit.checkpoint(key=key, to=sys.stdout if path is None else path)
    warn_if_readable(key_file.expanduser())
    if path is not None:
        warn_if_readable(path)
    if json:
        output.print_json({"file": str(output_file), **written.model_dump(mode="json", exclude={"text"})})
    else:
        counts = f"{written.conversations:,} conversations, {written.entries:,} entries"
        output.print_note(f"{counts}; signature {written.signature}")
