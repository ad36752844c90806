"""Define the options that several commands share.

`--local` takes an optional GGUF file. typer has no optional option values, so `split_local` moves the file into the hidden
option `--gguf` before typer parses the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

DEFAULT_DATABASE = "sqlite:///convokit.db"

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        envvar="CONVOKIT_DATABASE_URL",
        help="Database: a SQLAlchemy URL or the path of a SQLite file.",
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Tenant that owns the conversations.")]
AllTenants = Annotated[bool, typer.Option("--all-tenants", help="Include every tenant of the database.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Conversation = Annotated[
    str | None, typer.Argument(metavar="[KEY-or-ID]", help="Key or id of the conversation; default: the one used last.")
]
RequiredConversation = Annotated[str, typer.Argument(metavar="KEY-or-ID", help="Key or id of the conversation.")]
Subject = Annotated[
    str | None, typer.Option("--subject", metavar="NAME", help="Only conversations of this subject (a person).")
]
TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
Before = Annotated[
    str | None, typer.Option("--before", metavar="CURSOR", help="Continue after the page that named CURSOR.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Output file; default: stdout.")
]
Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Run a model on this machine, without an API key: the bundled one, or `--local FILE.gguf`."
    ),
]
Gguf = Annotated[Path | None, typer.Option("--gguf", hidden=True)]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="Model; default: CONVOKIT_MODEL.")]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="Chat Completions server; default: OPENAI_BASE_URL, else OpenAI."),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Provider whose API dialect to use (vllm, ollama …); default: the one that the URL names.",
    ),
]
DeveloperPrompt = Annotated[
    str | None, typer.Option("--developer-prompt", "-p", metavar="TEXT", help="Developer prompt.")
]


class LocalModelCommand(TyperCommand):
    """A command whose `--local` may be followed by a GGUF file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the file of `--local` as `--gguf`."""
        return super().parse_args(ctx, split_local(args))


def add_zone(local: datetime | None) -> datetime | None:
    """Return a local time that a user has given with its time zone."""
    return None if local is None else local.astimezone()


def split_local(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--local FILE.gguf` and `--local=FILE` as `--local --gguf FILE`.

    >>> split_local(["--local", "Tiny.GGUF", "Hello"])
    ['--local', '--gguf', 'Tiny.GGUF', 'Hello']
    >>> split_local(["--local", "Hello"])
    ['--local', 'Hello']
    """
    result: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*result, *arguments[index:]]
        if argument.startswith("--local="):
            result += ["--local", "--gguf", argument.removeprefix("--local=")]
        elif argument.lower().endswith(".gguf") and result[-1:] == ["--local"]:
            result += ["--gguf", argument]
        else:
            result.append(argument)
    return result
