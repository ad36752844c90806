"""Define `convokit export`: write conversations to a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.progress import TaskProgressColumn

from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit
from convokit.transfer.models import ExportFormat


def export(
    conversation: Annotated[
        str | None, typer.Argument(metavar="[KEY-or-ID]", help="Key or id of a conversation; default: all.")
    ] = None,
    *,
    output_file: shared_options.OutputFile = None,
    format: Annotated[
        ExportFormat,
        typer.Option("--format", "-f", help="jsonl loses nothing, openai is training data, markdown is for reading."),
    ] = "jsonl",
    subject: shared_options.Subject = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Write conversations to a file or to stdout."""
    if conversation is not None and subject is not None:
        raise typer.BadParameter("name a conversation or --subject, not both")
    if json and output_file is None:
        raise typer.BadParameter("--json describes the written file: name one with --output")
    with (
        open_kit(DatabaseOption(database, tenant), read_only=True) as kit,
        output.show_progress("exporting", TaskProgressColumn()) as progress,
        _open_output(output_file) as destination,
    ):
        chat = None if conversation is None else find_chat(kit, conversation)
        ids = None if chat is None or chat.id is None else [chat.id]
        exported = kit.export(destination, format=format, conversations=ids, subject=subject, progress=progress)
    if json:
        output.print_json(exported.model_dump(mode="json"))
    elif output_file is not None:
        conversations = output.format_count(exported.conversations, "conversation")
        output.print_note(f"{conversations}, {output.format_count(exported.messages, 'message')} in {output_file}")


@contextmanager
def _open_output(path: Path | None) -> Iterator[Path | TextIO]:
    """Yield the path, or stdout: UTF-8 with exact bytes in a pipe, visible control characters on a terminal."""
    if path is not None and path.is_char_device():
        # `-o /dev/stdout` and `-o /dev/tty` may be a terminal too.
        with path.open("w", encoding="utf-8", newline="\n") as device:
            yield _SafeStdout(device) if device.isatty() else device
    elif path is not None:
        yield path
    elif sys.stdout.isatty():
        yield _SafeStdout(sys.stdout)
    else:
        exact = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield exact
        finally:
            exact.detach()  # closing the wrapper would close stdout


class _SafeStdout(io.StringIO):
    """A text file that prints what is written to it on a terminal."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        """Print safe text."""
        self._terminal.write(output.make_safe(text))
        self._terminal.flush()
        return len(text)
