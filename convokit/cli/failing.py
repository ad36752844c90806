"""Errors that convokit raises on purpose, as a person wants them: one line on stderr, perhaps a hint, exit code 1.

Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from convokit.cli.display import err, note, one_line
from convokit.errors import ContextOverflow, ConvokitError, NotFound, SettingsError, Unreachable

_SETTING_HINTS = {
    "model": "name one with --model or CONVOKIT_MODEL, or try `--local`: a small model on this machine, no key needed",
    "api_key": "export OPENAI_API_KEY; for another server export OPENAI_BASE_URL beside it, because a key of the "
    "environment is not sent to a --base-url; `--local` needs no key",
}


class Commands(TyperGroup):
    """A group of commands whose ConvokitErrors end in one line, not in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ConvokitError as error:
            report(error)
            raise typer.Exit(1) from None


def report(error: ConvokitError) -> None:
    """Print the error in one line, and a hint where one helps."""
    line = Text("error: ", style="bold red")
    line.append(one_line(str(error), 2000), style="not bold default")
    err().print(line)
    hint = _hint(error)
    if hint:
        note(f"hint: {hint}")


def _hint(error: ConvokitError) -> str:
    if isinstance(error, SettingsError):
        return _SETTING_HINTS.get(error.setting, "")
    if isinstance(error, Unreachable):
        return "is the server running, and --base-url (or OPENAI_BASE_URL) right? `--local` needs no server"
    if isinstance(error, NotFound) and "`" not in str(error):
        return "`convokit ls` shows what there is"
    if isinstance(error, ContextOverflow):
        return "`convokit context` shows what takes the room"
    return ""
