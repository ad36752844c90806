"""Define `convokit audit`: write checkpoints for `convokit verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from convokit.cli import options, output
from convokit.cli.commands.verify import read_key_file
from convokit.cli.connect import Database, open_kit

audit = typer.Typer(
    cls=TyperGroup, help="Write checkpoints for `verify --against`.", no_args_is_help=True, rich_markup_mode=None
)


@audit.command()
def checkpoint(
    *,
    key_file: Annotated[
        Path, typer.Option("--key-file", metavar="FILE", help="File with the secret to sign with: at least 16 bytes.")
    ],
    output_file: options.OutputFile = None,
    json: options.Json = False,
    database: options.DatabaseUrl = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Write a signed list of the chain heads of the tenant's conversations.

    Keep the list and the secret where nobody who can write the database can write. `verify --against` compares with it.
    """
    if json and output_file is None:
        raise typer.BadParameter("--json describes the written file: name one with --output")
    key = read_key_file(key_file)
    with open_kit(Database(database, tenant)) as kit:
        written = kit.checkpoint(key=key, to=sys.stdout if output_file is None else output_file.expanduser())
    if json:
        output.print_json({"file": str(output_file), **written.model_dump(mode="json", exclude={"text"})})
    else:
        counts = f"{written.conversations:,} conversations, {written.entries:,} entries"
        output.print_note(f"{counts}; signature {written.signature}")
