"""Run the interactive chat: a line, paste or block is a message.

Ctrl-C stops a reply; at the prompt it leaves. Arrow up recalls the questions of this conversation. readline keeps them in
memory and writes no file.
"""

from __future__ import annotations

import contextlib
import select
import sys

from convokit import Chat
from convokit.cli import output
from convokit.cli.commands.context import print_context
from convokit.cli.commands.show import print_messages, read_newest
from convokit.cli.session import ChatSession
from convokit.domain.message import USER
from convokit.errors import ConvokitError, InvalidInput

try:
    import readline
except ImportError:  # not on every platform; without it input() has no line editing
    readline = None  # type: ignore[assignment]

_HELP = """\
/context   show the context of the next turn
/history   show the messages so far
/help      show this help
/quit      leave (as Ctrl-D, and Ctrl-C at the prompt)
A paste of several lines is one message. To type several lines, end each line
with \\ but the last one, or put \"\"\" before the first and after the last one.
Ctrl-C stops a reply and keeps its partial text. Between lines it drops them."""
_COMMANDS = ("/context", "/history", "/help", "/quit")
_QUOTES = '"""'
_PASTE_WAIT_S = 0.05
"""A pasted line follows the previous one at once. Nobody types a line in this time."""
_NOT_TEXT = InvalidInput("message", "is not in this terminal's encoding")
_NO_MESSAGES = "no messages yet"
_RECALLED_MESSAGES = 100
_SHOWN_MESSAGES = 1000


def run_repl(session: ChatSession) -> None:
    """Ask what the user types until the user leaves. An error is printed and does not end the loop."""
    _recall_questions(session.chat)
    output.print_note("/help for help, \\ at the end of a line for another line, Ctrl-D to leave")
    while not session.guard.is_terminated and (line := _read_line()) is not None:
        try:
            if line == "/quit":
                break
            if line.startswith("/") and not any(map(str.isspace, line)):
                _run_command(line, session.chat)
            else:
                session.ask(line)
        except ConvokitError as error:
            output.report_error(error)


def _read_line() -> str | None:
    """Return the next message that is not empty, or None when the user leaves."""
    while True:
        try:
            text = input(_make_prompt("> "))
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        except UnicodeDecodeError:
            output.report_error(_NOT_TEXT)
            continue
        try:
            if text.strip() not in _COMMANDS:
                text = _read_more_lines(text + _read_pending_lines())
        except KeyboardInterrupt:
            print()  # the lines so far are dropped
            continue
        except UnicodeDecodeError:
            output.report_error(_NOT_TEXT)
            continue
        if text := text.strip():
            return text


def _read_more_lines(text: str) -> str:
    """Return the message that begins with `text`: until its closing quotes, or a line without a backslash at its end.

    A paste of several lines is a whole message, also if it begins with quotes, as a Python module does.
    """
    if "\n" in text:
        return text
    if text.lstrip().startswith(_QUOTES):
        text = text.lstrip().removeprefix(_QUOTES)
        while not text.rstrip().endswith(_QUOTES) and (line := _read_next_line()) is not None:
            text += f"\n{line}"
        return text.rstrip().removesuffix(_QUOTES)
    while text.endswith("\\"):
        text = text.removesuffix("\\") + "\n"
        if (line := _read_next_line()) is None:
            break
        text += line
    return text


def _read_next_line() -> str | None:
    """Return the next line of a message, with what was pasted with it; None at Ctrl-D, which ends the message."""
    try:
        return input(_make_prompt(". ")) + _read_pending_lines()
    except EOFError:
        print()
        return None


def _read_pending_lines() -> str:
    """Return the lines that the terminal sent together with the first one.

    Most terminals mark a paste, and readline then returns all its lines at once. The others send line after line.
    """
    lines = ""
    with contextlib.suppress(EOFError):  # the lines before a Ctrl-D are asked
        while _has_pending_input():
            lines += f"\n{input()}"
    return lines


def _has_pending_input() -> bool:
    """Return whether the terminal has sent more than one line at once."""
    try:
        return bool(select.select([sys.stdin], [], [], _PASTE_WAIT_S)[0])
    except (OSError, ValueError):  # Windows has no select for a terminal
        return False


def _make_prompt(sign: str) -> str:
    console = output.get_console()
    if console.color_system is None or console.no_color or readline is None:
        return sign
    # \001 and \002 tell readline which characters take no cells, so that it places the cursor correctly.
    return f"\001\x1b[1;36m\002{sign}\001\x1b[0m\002"


def _run_command(line: str, chat: Chat | None) -> None:
    if line == "/help":
        output.get_error_console().print(_HELP)
    elif line not in ("/context", "/history"):
        output.print_note(f"unknown command {output.to_one_line(line)}: /help lists the commands")
    elif chat is None:
        output.print_note(_NO_MESSAGES)
    else:
        messages = read_newest(chat, _SHOWN_MESSAGES)
        if not messages:
            output.print_note(_NO_MESSAGES)
        elif line == "/context":
            print_context(chat.context(), "context after the last turn")
        else:
            print_messages(messages)


def _recall_questions(chat: Chat | None) -> None:
    if readline is None:
        return
    readline.clear_history()
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off
    if chat is None:
        return
    for message in chat.messages(limit=_RECALLED_MESSAGES):
        if message.role == USER:
            readline.add_history(output.make_safe(message.text).replace("\n", " "))
