"""`export` and `import`: conversations out into files, and in from them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.progress import TaskProgressColumn

from convokit import Convokit
from convokit.cli import options
from convokit.cli.connect import Place, existing_chat, opened
from convokit.cli.output import bar, note, one_line, out, print_json, write
from convokit.domain.paging import Progress as Report
from convokit.transfer.models import Exported, ExportFormat, Imported, ImportFormat

Subject = Annotated[str | None, typer.Option("--subject", help="Only this person's conversations.", show_default=False)]
To = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to; without it, stdout.", show_default=False),
]


def export(
    conversation: Annotated[
        str | None, typer.Argument(metavar="[KEY-or-ID]", help="One conversation; without it, all.", show_default=False)
    ] = None,
    *,
    output: To = None,
    format: Annotated[
        ExportFormat,
        typer.Option("--format", "-f", help="Lossless, training data of the OpenAI API, or Markdown to read."),
    ] = "jsonl",
    subject: Subject = None,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Write conversations to a file: losslessly, as training data, or as Markdown."""
    if conversation is not None and subject is not None:
        raise typer.BadParameter("name a conversation or --subject, not both")
    if json and output is None:
        raise typer.BadParameter("--json says what was written, so name a file with --output")
    with opened(Place(database, tenant)) as kit, bar("exporting", TaskProgressColumn()) as progress:
        found = _export(kit, conversation, output, format, subject, progress)
    if json:
        print_json(found.model_dump(mode="json"))
    elif output is not None:
        note(f"{_counted(found)} in {output}")


def _export(
    kit: Convokit,
    conversation: str | None,
    output: Path | None,
    form: ExportFormat,
    subject: str | None,
    progress: Report | None,
) -> Exported:
    ids = None
    if conversation is not None:
        chat = existing_chat(kit, conversation)
        assert chat.id is not None
        ids = [chat.id]
    if output is not None:
        return kit.export(output, format=form, conversations=ids, subject=subject, progress=progress)
    with _stdout() as file:
        return kit.export(file, format=form, conversations=ids, subject=subject, progress=progress)


@contextmanager
def _stdout() -> Iterator[TextIO]:
    """Yield stdout for an export: UTF-8 to the byte, but on a terminal only what cannot steer it."""
    if sys.stdout.isatty():
        yield _Safe()
        return
    exact = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n", write_through=True)
    try:
        yield exact
    finally:
        exact.detach()


class _Safe(io.StringIO):
    """A file that shows what is written to it."""

    def write(self, text: str) -> int:
        """Write to the terminal."""
        write(text)
        return len(text)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file; - is stdin.", show_default=False)],
    *,
    format: Annotated[
        ImportFormat,
        typer.Option("--format", "-f", help="An export of convokit, ChatGPT's conversations.json, or message arrays."),
    ] = "jsonl",
    key: Annotated[
        str | None, typer.Option("--key", help="The key for a single message array.", show_default=False)
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip bad records and report them.")] = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Read conversations from a file. What is there already is left alone: to take an import up again, repeat it."""
    with opened(Place(database, tenant)) as kit, bar("importing", TaskProgressColumn()) as progress:
        source = sys.stdin.buffer if str(file) == "-" else file
        found = kit.import_(source, format=format, key=key, on_error="skip" if skip_bad else "raise", progress=progress)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if found.skipped:
        raise typer.Exit(1)


def _print(found: Imported) -> None:
    said = [_counted(found)]
    if found.rechained:
        said.append(f"{found.rechained:,} of them from another database, with a new chain")
    if found.unchanged:
        said.append(f"{found.unchanged:,} were there already")
    out().print("; ".join(said))
    for each in found.problems:
        note(f"skipped, line {each.line:,}: {one_line(each.problem)}")
    if found.skipped > len(found.problems):
        note(f"and {found.skipped - len(found.problems):,} more")


def _counted(found: Exported | Imported) -> str:
    return f"{_number(found.conversations, 'conversation')}, {_number(found.messages, 'message')}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
