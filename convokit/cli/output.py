"""What people see. Stored text, and what a model or server says, is untrusted: nothing in it may move the cursor, recolour the
terminal or turn the reading direction. So everything printed for people goes through `safe`; `--json` is exact, with the same
characters as escapes. Widths are terminal cells, never characters: a Japanese one takes two.

Results go to stdout, everything else to stderr. No colours and no spinners in a pipe; rich honours NO_COLOR.

Messages on the terminal: who, when, and the words, made safe to look at.

Errors that convokit raises on purpose, as a person wants them: one line on stderr, perhaps a hint, exit code 1.

Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from convokit import Chat, Message
from convokit.domain.message import ASSISTANT, TOOL, USER
from convokit.errors import ContextOverflow, ConvokitError, NotFound, SettingsError, Unreachable

ROLE_STYLES = {USER: "bold cyan", ASSISTANT: "bold green", TOOL: "bold yellow"}
OTHER_ROLE = "bold magenta"
_PAGE = 1000
_PIPE_WIDTH = 1000
"""Wide enough that nothing is cut for a program or a file."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the reading direction
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_CONTROL_PICTURES = 0x2400
_SETTING_HINTS = {
    "model": "name one with --model or CONVOKIT_MODEL, or try `--local`: a small model on this machine, no key needed",
    "api_key": "export OPENAI_API_KEY; for another server export OPENAI_BASE_URL beside it, because a key of the "
    "environment is not sent to a --base-url; `--local` needs no key",
}


def newest(chat: Chat, count: int) -> list[Message]:
    """Return the newest `count` messages, oldest first, however many pages that takes."""
    found = chat.messages(limit=min(count, _PAGE))
    while found and len(found) < count and found[0].parent_seq is not None:
        earlier = chat.messages(limit=min(count - len(found), _PAGE), before=found[0].seq)
        if not earlier:
            break
        found = [*earlier, *found]
    return found


def print_messages(messages: Iterable[Message]) -> None:
    """Print messages for a person."""
    console = out()
    for message in messages:
        _print(console, message)


def _print(console: Console, message: Message) -> None:
    head = Text(safe(message.role), style=ROLE_STYLES.get(message.role, OTHER_ROLE))
    head.append(f"  {local_time(message.created_at)}", style="not bold default dim")
    if message.status != "complete":
        head.append(f"  ({message.status})", style="not bold yellow")
    console.print(head)
    if message.text:
        write(f"{message.text}\n")  # not through rich, which expands tabs
    for call in message.tool_calls or ():
        function: dict[str, Any] = call.get("function", {})
        said = one_line(f"{function.get('name', '?')}({function.get('arguments', '')})")
        console.print(Text(f"calls {said}", style="yellow"))
    console.print()


def as_json(message: Message) -> dict[str, Any]:
    """Return a message for programs: its fields, and its words whatever shape they have."""
    return {**message.model_dump(mode="json"), "text": message.text}


def safe(text: str) -> str:
    """Return `text` with every character that could steer a terminal made visible; lines and tabs stay."""
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def one_line(text: str, limit: int = 500) -> str:
    """Return the beginning of `text`, safe, on one line. Columns cut it further, by cells."""
    return " ".join(safe(text[:limit]).split())


def out() -> Console:
    """Return a console on stdout; in a pipe it never cuts or wraps."""
    return _console(sys.stdout)


def err() -> Console:
    """Return a console on stderr."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    plain = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not plain.is_terminal:
        plain.width = _PIPE_WIDTH
    return plain


def tolerate(*streams: Any) -> None:
    """Let streams replace what their encoding cannot hold, instead of failing in the middle of an answer."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def note(text: str) -> None:
    """Say something on the side: dim, on stderr."""
    wrapped(err(), Text(safe(text), style="dim"))


def wrapped(console: Console, text: Text) -> None:
    """Print our own words: broken between words on a terminal, whole in a pipe."""
    console.print(text, soft_wrap=not console.is_terminal)


def write(text: str) -> None:
    """Write stored text, or a piece of a reply, at once: as it came but for what is not safe, wrapped by the terminal."""
    sys.stdout.write(safe(text))
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON value; what a terminal might obey is escaped, so it is still exact."""
    encoded = json.dumps(value, ensure_ascii=not _holds_unicode(sys.stdout), indent=2, default=str)
    print(_UNSAFE.sub(_escaped, encoded))


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1] if found.group() != "\x7f" else "\\u007f"


def _holds_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show a spinner with the elapsed time while the block runs, if a person is looking."""
    console = err()
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(safe(label), total=None)
        yield


@contextmanager
def bar(label: str, amount: ProgressColumn | None = None) -> Iterator[Callable[[int, int | None], None] | None]:
    """Yield what moves a bar on stderr, if a person is looking; `amount` says how far it is, in other than plain numbers."""
    console = err()
    if not console.is_terminal:
        yield None
        return
    said = TextColumn("{task.description}", markup=False)
    columns = (said, BarColumn(), amount or MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(safe(label), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def table(*columns: str, right: tuple[str, ...] = (), cut: tuple[str, ...] = ()) -> Table:
    """Return an empty table: `right` columns are numbers; on a narrow terminal `cut` ones give way, made of `cell`s."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name not in cut)
    return made


def cell(text: str, style: str = "") -> Text:
    """Return text for a column: one line, cut by cells with an ellipsis where it does not fit."""
    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def fitted(text: str, cells: int) -> Text:
    """Return text on one line of at most so many cells."""
    made = cell(text)
    made.truncate(cells, overflow="ellipsis")
    return made


def local_time(moment: datetime) -> str:
    """Return a time as the reader's clock shows it."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def lasted(seconds: float) -> str:
    """Return a span of time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago that was, as a person would say it."""
    seconds = (now - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min ago"
    here, there = now.astimezone(), moment.astimezone()
    days = (here.date() - there.date()).days
    if days == 0:
        return f"{round(seconds / 3600)} h ago"
    if days == 1:
        return f"yesterday {there:%H:%M}"
    return f"{there:%Y-%m-%d %H:%M}" if days > 6 else f"{there:%a %H:%M}"


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
