"""One reply on the terminal: streamed as it comes, stopped by Ctrl-C, and what there is to say about it afterwards.

The words of the reply go to stdout and nothing else does. Whatever stops a reply, what came of it is kept.

The interactive chat: one line is one turn. Ctrl-C stops a reply, at the prompt it leaves.

Line editing is the standard library's readline where there is one; its history is this conversation's own questions, and no
file of them is written anywhere.

Ctrl-C while a reply is on its way: it ends the waiting for the server, and never a save.

A KeyboardInterrupt can strike anywhere, also in the middle of the transaction that keeps what came. So while a reply comes,
Ctrl-C raises only where the program waits for the server; elsewhere it is remembered until it waits again. The third one in a
row always raises.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from convokit import Chat, Reply, Report
from convokit.cli.context_view import WINDOW_NOW, from_cache, print_context
from convokit.cli.output import err, newest, note, one_line, out, print_messages, report, safe, waiting, write
from convokit.completion.effects import OpenRequest, ResponseHead
from convokit.domain.events import Retrying, StreamEvent
from convokit.domain.message import USER
from convokit.domain.params import RequestParams
from convokit.errors import ConvokitError, InvalidInput, ModelError, NotFound
from convokit.runtime.http_client import Answer, Client, HttpxClient

_PATIENCE = 3
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


class Interrupts:
    """Holds Ctrl-C back to where it does no harm, inside `with interrupts:`."""

    def __init__(self) -> None:
        self.pressed = 0
        self.waits = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self.pressed, self.waits = 0, False
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pressed += 1
        if self.waits or self.pressed >= _PATIENCE:
            raise KeyboardInterrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let Ctrl-C raise in the block, also one from before it."""
        self.waits = True
        try:
            if self.pressed:
                raise KeyboardInterrupt
            yield
        finally:
            self.waits = False


class StoppableClient:
    """A client whose waiting Ctrl-C may end."""

    def __init__(self, interrupts: Interrupts, client: Client | None = None) -> None:
        self._interrupts = interrupts
        self._client = client or HttpxClient()

    def open(self, request: OpenRequest) -> Answer:
        """Send, and wait for the head."""
        with self._interrupts.waiting():
            return _StoppableAnswer(self._interrupts, self._client.open(request))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _StoppableAnswer:
    def __init__(self, interrupts: Interrupts, answer: Answer) -> None:
        self.head: ResponseHead = answer.head
        self._interrupts = interrupts
        self._answer = answer

    def read(self, timeout_s: float) -> bytes:
        """Wait for the next piece."""
        with self._interrupts.waiting():
            return self._answer.read(timeout_s)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()


@dataclass(slots=True)
class Replies:
    """Asks a chat and prints what it answers. `quiet` prints nothing, for a caller who wants the reply alone.

    `chat` is None until the first question of a new conversation, which `begin` makes from that question.
    """

    chat: Chat | None
    begin: Callable[[str], Chat]
    interrupts: Interrupts
    params: RequestParams = field(default_factory=RequestParams)
    stream: bool = True
    quiet: bool = False
    usage: bool = False
    """Whether each reply is followed by what it took in tokens."""

    def ask(self, text: str) -> Reply | None:
        """Send `text` and return the reply, or None when Ctrl-C stopped it. Raises: ConvokitError."""
        printed = _Printed(quiet=self.quiet)
        chat = self.chat = self.chat or self.begin(text)
        try:
            with self.interrupts:
                reply = self._streamed(chat, text, printed) if self.stream else self._whole(chat, text, printed)
        except KeyboardInterrupt:
            printed.end()
            note(
                "stopped: what came is kept" if printed.pieces else "stopped before a reply came: the question is kept"
            )
            return None
        except ModelError:
            printed.end()
            if printed.pieces:
                note("the reply broke off: what came is kept")
            raise
        printed.end()
        if not self.quiet:
            remark(reply)
            if self.usage:
                note(_spent(reply))
        return reply

    def _streamed(self, chat: Chat, text: str, printed: _Printed) -> Reply:
        with ExitStack() as spinner, chat.stream(text, **self.params) as events:
            spinner.enter_context(waiting("waiting for the reply"))
            for event in events:
                self.interrupts.waits = isinstance(event, Retrying)
                if event.text:
                    spinner.close()
                printed.event(event)
        return events.reply

    def _whole(self, chat: Chat, text: str, printed: _Printed) -> Reply:
        with waiting("waiting for the reply"):
            reply = chat.send(text, **self.params)
        printed.text(reply.text)
        return reply


@dataclass(slots=True)
class _Printed:
    """What was printed of a reply so far."""

    quiet: bool
    pieces: int = 0
    open_line: bool = False

    def event(self, event: StreamEvent) -> None:
        if isinstance(event, Retrying):
            note(f"{event.reason}: trying again in {event.delay_s:.1f} s")
        self.text(event.text)

    def text(self, text: str) -> None:
        if not text:
            return
        self.pieces += 1
        self.open_line = not text.endswith("\n")
        if not self.quiet:
            write(text)

    def end(self) -> None:
        """Finish the line, so that whatever follows begins on one of its own."""
        if self.open_line and not self.quiet:
            write("\n")
        self.open_line = False


def remark(reply: Reply) -> None:
    """Say what is worth knowing of a reply besides its text."""
    for change in reply.changes:
        note(f"note: {change.parameter} was {change.action}: {change.reason}")
    if reply.finish_reason == "length":
        note("note: the reply was cut at its length limit (--max-output-tokens)")
    if not reply.text:
        note(f"note: the reply has no text (finish reason: {reply.finish_reason})")


def _spent(reply: Reply) -> str:
    """Return what a reply took, in the server's own counts where it has said so."""
    usage = reply.usage
    if usage.source != "reported":
        return f"usage: {from_cache(None, None, _expected(reply))}"
    replied = "" if usage.completion_tokens is None else f"; {usage.completion_tokens:,} tokens of reply"
    return f"usage: {from_cache(usage.prompt_tokens, usage.cached_tokens, _expected(reply))}{replied}"


def _expected(reply: Reply) -> int:
    return reply.context.stable_tokens if isinstance(reply.context, Report) else 0


def as_json(chat: Chat, reply: Reply) -> dict[str, Any]:
    """Return what a program wants to know of a reply."""
    return {
        "text": reply.text,
        "conversation_id": str(chat.id),
        "key": chat.key,
        "turn_id": str(reply.turn_id),
        "usage": reply.usage.model_dump(mode="json"),
        "expected_cached_tokens": _expected(reply),
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "changes": [change.model_dump(mode="json") for change in reply.changes],
    }


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
    return [safe(message.text).replace("\n", " ") for message in found if message.role == USER]
