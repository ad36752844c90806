"""One reply on the terminal: streamed as it comes, stopped by Ctrl-C, and what there is to say about it afterwards.

The words of the reply go to stdout and nothing else does. Whatever stops a reply, what came of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from convokit import Chat, Reply, Report
from convokit.cli.display import note, waiting, write
from convokit.cli.interrupt import Interrupts
from convokit.cli.window import from_cache
from convokit.domain.events import Retrying, StreamEvent
from convokit.domain.params import RequestParams
from convokit.errors import ModelError


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
