"""The interactive chat: one line is one turn. Ctrl-C stops a reply, at the prompt it leaves.

Line editing is the standard library's readline where there is one; its history is this conversation's own questions, and no
file of them is written anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from convokit.cli.display import err, note, one_line, out, safe
from convokit.cli.failing import report
from convokit.cli.messages import newest, print_messages
from convokit.cli.replying import Replies
from convokit.cli.window import WINDOW_NOW, print_context
from convokit.errors import ConvokitError, InvalidInput, NotFound

try:
    import readline
except ImportError:  # not on every platform: then input() has no line editing
    readline = None  # type: ignore[assignment]

_HELP = """\
/context   what the next turn would send with it, and what stays out
/history   the messages so far
/help      this
/quit      leave (so do Ctrl-D, and Ctrl-C at the prompt)
Ctrl-C stops a reply; what came of it is kept."""
_REMEMBERED = 100
_SHOWN = 1000


def talk(replies: Replies) -> None:
    """Talk until the user leaves. Errors are printed and the talk goes on."""
    _remember(replies)
    note("/help for help, Ctrl-D leaves")
    while (line := _line()) is not None:
        try:
            if line == "/quit":
                break
            if line.startswith("/") and " " not in line:
                _command(line, replies)
            else:
                replies.ask(line)
        except ConvokitError as error:
            report(error)


def _line() -> str | None:
    """Return the next line that says something, or None when the user leaves."""
    while True:
        try:
            line = input(_prompt()).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        except UnicodeDecodeError:
            report(InvalidInput("message", "is not in this terminal's encoding"))
            continue
        if line:
            return line


def _prompt() -> str:
    console = out()
    if console.color_system is None or console.no_color:
        return "> "
    # readline must know what takes no room: it counts cells to place the cursor
    return "\001\x1b[1;36m\002> \001\x1b[0m\002" if readline is not None else "> "


def _command(line: str, replies: Replies) -> None:
    if line == "/help":
        err().print(_HELP)
        return
    if line not in ("/context", "/history"):
        note(f"there is no {one_line(line)}: /help lists what there is")
        return
    try:
        if replies.chat is None:
            note("nothing was said yet")
        elif line == "/context":
            print_context(replies.chat.context(), WINDOW_NOW)
        else:
            print_messages(newest(replies.chat, _SHOWN))
    except NotFound:
        note("nothing was said yet")


def _remember(replies: Replies) -> None:
    if readline is None:
        return
    readline.clear_history()
    for question in _questions(replies):
        readline.add_history(question)


def _questions(replies: Replies) -> Iterable[str]:
    if replies.chat is None:
        return ()
    try:
        found = replies.chat.messages(limit=_REMEMBERED)
    except NotFound:
        return ()
    return [safe(message.text).replace("\n", " ") for message in found if message.role == "user"]
