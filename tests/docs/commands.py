"""The command line as it really is: for the page of commands, and to hold the pages to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import typer.main

from convokit.cli.app import app

NAME = "convokit"


@cache
def root() -> Any:
    """Return the command line's root command."""
    return typer.main.get_command(app)


def every(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with the words that call it."""
    command = command or root()
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        yield from every(each, (*path, name))


def parse(words: list[str]) -> None:
    """Parse a call of the command line without running it. Raises: KeyError, or what typer raises, when it is not one."""
    command, path = root(), [NAME]
    while getattr(command, "commands", None) is not None:
        if words and words[0].startswith("-"):
            assert any(words[0] in parameter.opts for parameter in command.params), words
            return
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    command.make_context(" ".join(path), list(words))


def page(note: str) -> str:
    """Return the page of commands."""
    lines = ["# Commands", "", note, "", "[How to use them](../how-to/command-line.md).", ""]
    for path, command in every():
        lines += [f"## {NAME} {' '.join(path)}", "", command.help or "", "", "| | default | |", "|---|---|---|"]
        lines += [_row(each) for each in command.params if not each.hidden]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
        names = [name + value for name in parameter.opts]
    shown = parameter.show_default and not getattr(parameter, "is_flag", False) and parameter.default is not None
    default = f"`{parameter.default}`" if shown else ""
    variable = f" (`{parameter.envvar}`)" if parameter.envvar else ""
    words = (parameter.help or "").replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {default}{variable} | {words} |"
