"""Print results, notes and errors to the terminal.

Results go to stdout. Notes, hints and errors go to stderr. A pipe gets no colours, no spinners and no cut lines; rich honours
NO_COLOR.

Stored text and text from a server are untrusted: they must not move the cursor, change colours or turn the reading direction.
`make_safe` makes such characters visible. JSON output escapes them and stays exact.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import ceil
from typing import Any

from rich.bar import Bar
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

from convokit.cli.invocation import format_command
from convokit.domain.message import ASSISTANT, TOOL, USER
from convokit.domain.text import UNSAFE_TEXT
from convokit.errors import ContextOverflow, ConversationBusy, ConvokitError, NotFound, SettingsError, Unreachable

_ROLE_STYLES = {USER: "bold cyan", ASSISTANT: "bold green", TOOL: "bold yellow"}
# Wide enough that a program or a file gets whole lines.
_PIPE_WIDTH = 1000
_CONTROL_PICTURES = 0x2400
_SETTING_HINTS = {
    "model": "name a model with --model or CONVOKIT_MODEL; `--local` runs a small model on this machine, without a key",
    "api_key": "export OPENAI_API_KEY; for another server export OPENAI_BASE_URL too, because a key from the "
    "environment is not sent to a --base-url; `--local` needs no key",
}


def make_safe(text: str) -> str:
    """Return `text` with every character that could steer a terminal made visible; line feeds and tabs stay."""
    return UNSAFE_TEXT.sub(_to_visible, text.replace("\r\n", "\n"))


def _to_visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def to_one_line(text: str, limit: int = 500) -> str:
    """Return the first `limit` characters of `text` as one safe line."""
    return " ".join(make_safe(text[:limit]).split())


def get_console() -> Console:
    """Return a console on stdout. In a pipe it never cuts or wraps a line."""
    return _make_console(sys.stdout)


def get_error_console() -> Console:
    """Return a console on stderr."""
    return _make_console(sys.stderr)


def _make_console(stream: Any) -> Console:
    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def replace_unencodable(*streams: Any) -> None:
    """Let streams print `?` for a character that their encoding lacks, instead of failing in the middle of a reply."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def leave_closed_pipe() -> None:
    """Drop all further output to stdout: its reader has left, as `head` does when it has its lines."""
    # Python flushes stdout at its end, and would print an error there.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_note(text: str) -> None:
    """Print a dim line on stderr."""
    print_wrapped(get_error_console(), Text(make_safe(text), style="dim"))


def print_warning(text: str) -> None:
    """Print a yellow line on stderr: the command goes on, but something should be changed."""
    line = Text("warning: ", style="bold yellow")
    print_wrapped(get_error_console(), line.append(make_safe(text), style="not bold default"))


def print_wrapped(console: Console, text: Text) -> None:
    """Print text that a terminal breaks between words and a pipe keeps whole."""
    console.print(text, soft_wrap=not console.is_terminal)


def write_text(text: str) -> None:
    """Write stored text or a chunk of a reply at once. The terminal wraps it, because rich would expand tabs."""
    sys.stdout.write(make_safe(text))
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON value, with every character that could steer a terminal as an escape."""
    encoded = json.dumps(value, ensure_ascii=not _is_unicode(sys.stdout), indent=2, default=str)
    print(UNSAFE_TEXT.sub(_to_escape, encoded))


def _to_escape(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1] if match.group() != "\x7f" else "\\u007f"


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


@contextlib.contextmanager
def show_spinner(label: str) -> Iterator[None]:
    """Show a spinner and the elapsed time on stderr while the block runs; in a pipe show nothing."""
    console = get_error_console()
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(make_safe(label), total=None)
        yield


@contextlib.contextmanager
def show_progress(
    label: str, amount: ProgressColumn | None = None
) -> Iterator[Callable[[int, int | None], None] | None]:
    """Yield a callback that moves a progress bar on stderr; in a pipe yield None.

    `amount` replaces the column that counts "done/total".
    """
    console = get_error_console()
    if not console.is_terminal:
        yield None
        return
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), amount or MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(make_safe(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def get_role_style(role: str) -> str:
    """Return the style of a message's role."""
    return _ROLE_STYLES.get(role, "bold magenta")


def make_table(*columns: str, right: tuple[str, ...] = (), cut: tuple[str, ...] = ()) -> Table:
    """Return an empty table. Columns in `right` hold numbers. A narrow terminal cuts the columns in `cut` only.

    Cells of a `cut` column must come from `make_cell`.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name not in cut)
    return table


def fit_columns(longest: Sequence[int], least: Sequence[int], cells: int) -> list[int] | None:
    """Return the cells of each column: `longest` where all fit into `cells`, else the widest columns get fewer.

    No column gets fewer than its `least`, unless its texts are shorter. None: even these do not fit.
    """
    least = [min(pair) for pair in zip(longest, least, strict=True)]
    for limit in range(max(longest, default=0), -1, -1):
        widths = [min(most, max(few, limit)) for most, few in zip(longest, least, strict=True)]
        if sum(widths) <= cells:
            return widths
    return None


def make_cell(text: str, style: str = "") -> Text:
    """Return text as one line that ends with an ellipsis where it does not fit."""
    return Text(to_one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def make_bar(amount: float, total: float, cells: int, color: str = "cyan", *, start: float = 0) -> Bar | Text:
    """Return a bar of `cells` cells for `total`, filled from `start` to `start` + `amount`."""
    total = total or 1
    if _is_unicode(sys.stdout):
        return Bar(total, start, start + amount, width=cells, color=color)
    # rich's bars consist of block characters.
    first, last = int(start / total * cells), ceil((start + amount) / total * cells)
    return Text((" " * first).ljust(last, "#") if amount else "")


def fit_text(text: str, cells: int, style: str = "") -> Text:
    """Return text as one line of at most `cells` terminal cells. A Japanese character takes two."""
    line = make_cell(text, style)
    line.truncate(cells, overflow="ellipsis")
    return line


def format_count(count: int, noun: str) -> str:
    """Return "1 message" or "2,000 messages"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_time(moment: datetime) -> str:
    """Return a time of the local time zone, to the minute."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def format_removal(at: datetime, author: str | None, reason: str | None) -> str:
    """Return who removed something, when and why: "2026-03-10 12:00 by hanako: asked for"."""
    by = f" by {to_one_line(author)}" if author else ""
    return f"{format_time(at)}{by}{f': {to_one_line(reason)}' if reason else ''}"


def format_duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit: "80 s", "5 min", "30 h", "3 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def format_age(moment: datetime, now: datetime) -> str:
    """Return when something happened, as seen from `now`: "5 min ago", "yesterday 12:00", "Mon 12:00", a date."""
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


def report_error(error: ConvokitError) -> None:
    """Print an error as one line on stderr, and a hint below it where one helps."""
    print_error(_describe_busy(error) if isinstance(error, ConversationBusy) else str(error))
    if hint := _find_hint(error):
        print_note(f"hint: {hint}")


def print_error(text: str) -> None:
    """Print one red line on stderr."""
    line = Text("error: ", style="bold red")
    print_wrapped(get_error_console(), line.append(to_one_line(text, 2000), style="not bold default"))


def _describe_busy(error: ConversationBusy) -> str:
    # The message of the exception names a parameter of the API.
    age = "" if error.since_s is None else f", for {error.since_s:.1f} s"
    return f"conversation {error.conversation} has an open turn ({error.turn}{age}): wait until it ends, then try again"


def _find_hint(error: ConvokitError) -> str:
    if isinstance(error, SettingsError):
        return _SETTING_HINTS.get(error.setting, "")
    if isinstance(error, Unreachable):
        return "check that the server runs and that --base-url (or OPENAI_BASE_URL) is right; `--local` needs no server"
    if isinstance(error, ConversationBusy):
        return f"`{format_command('recover')}` closes the turns of workers that died"
    if isinstance(error, NotFound) and "`" not in str(error):  # an error with a command in it has its own hint
        return f"`{format_command('ls')}` lists the conversations"
    if isinstance(error, ContextOverflow):
        return f"`{format_command('context')}` shows the parts of the request and their tokens"
    return ""
