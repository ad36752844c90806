"""The options that commands share, said once: their names, help and environment variables.

`--local` takes an optional file. The argument behind it is that file only if it ends with `.gguf`; `split_local` moves it into
an option of its own before anything is parsed, so `convokit chat --local "Hello"` says hello.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

DEFAULT_DATABASE = "sqlite:///convokit.db"

Database = Annotated[
    str,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        envvar="CONVOKIT_DATABASE_URL",
        help="A SQLAlchemy URL, or the path of a SQLite file.",
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose conversations.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Conversation = Annotated[
    str | None,
    typer.Argument(metavar="[KEY-or-ID]", help="The conversation; without it, the one used last.", show_default=False),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Use a model on this machine, no key needed: the bundled one, or `--local FILE.gguf`.",
        show_default=False,
    ),
]
Gguf = Annotated[Path | None, typer.Option("--gguf", hidden=True)]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="The model; else CONVOKIT_MODEL.", show_default=False),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The Chat Completions server; else OPENAI_BASE_URL, else OpenAI.",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="The provider whose dialect to speak (vllm, ollama …), where the URL does not tell.",
        show_default=False,
    ),
]
DeveloperPrompt = Annotated[
    str | None,
    typer.Option("--developer-prompt", "-p", metavar="TEXT", help="The developer prompt.", show_default=False),
]


class WithLocal(TyperCommand):
    """A command whose `--local` may be followed by a GGUF file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what `split_local` made of the arguments."""
        return super().parse_args(ctx, split_local(args))


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
