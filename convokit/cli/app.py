"""The command line, put together: its commands and the options of all of it."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from convokit.cli import options
from convokit.cli.commands.audit import audit, verify
from convokit.cli.commands.chat import chat
from convokit.cli.commands.conversations import context, ls, show
from convokit.cli.commands.db import db, recover
from convokit.cli.commands.doctor import doctor
from convokit.cli.commands.erase import erase, purge, redact
from convokit.cli.commands.replay import diff, replay
from convokit.cli.commands.search import search
from convokit.cli.commands.transfer import export, import_
from convokit.cli.commands.usage import usage
from convokit.cli.output import Commands, tolerate

app = typer.Typer(
    cls=Commands,
    name="convokit",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks show local variables: people's words and keys
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=options.WithLocal)(chat)
app.command()(ls)
app.command()(show)
app.command(cls=options.WithLocal)(context)
app.command()(replay)
app.command()(diff)
app.command()(verify)
app.command()(redact)
app.command()(erase)
app.command()(purge)
app.command()(export)
app.command(name="import")(import_)
app.command()(usage)
app.command()(search)
app.command()(recover)
app.add_typer(audit, name="audit")
app.add_typer(db, name="db")
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"convokit-sql {metadata.version('convokit-sql')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Durable conversations in SQL: chat, look at what is stored and at what is sent."""


def run() -> None:
    """Run the command line of this process and exit."""
    tolerate(sys.stdout, sys.stderr)
    app(prog_name="convokit")
