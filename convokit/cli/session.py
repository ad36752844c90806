"""Ask a chat questions and print its replies.

Only the text of a reply goes to stdout. Ctrl-C and SIGTERM stop a reply and keep its partial text.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from convokit import Chat, Convokit, Reply, Report, Retrying
from convokit.cli import output
from convokit.cli.commands.context import describe_cached
from convokit.cli.interrupts import InterruptGuard
from convokit.domain.params import RequestParams
from convokit.errors import ModelError

_TITLE_CELLS = 60


@dataclass(slots=True)
class ChatSession:
    """A chat of one kit that is asked question by question.

    `chat` is None until the first question starts a new conversation. `quiet` prints nothing. `usage` prints the tokens that
    each reply took.
    """

    kit: Convokit
    chat: Chat | None
    guard: InterruptGuard
    chat_settings: dict[str, Any] = field(default_factory=dict)
    params: RequestParams = field(default_factory=RequestParams)
    stream: bool = True
    quiet: bool = False
    usage: bool = False

    def ask(self, text: str) -> Reply | None:
        """Send `text` and print the reply. Return None when Ctrl-C stopped it. Raises: ConvokitError."""
        if self.chat is None:
            self.chat = self.kit.chat(title=output.fit_text(text, _TITLE_CELLS).plain or None, **self.chat_settings)
        printer = _ReplyPrinter(quiet=self.quiet)
        try:
            with self.guard:
                reply = self._stream(self.chat, text, printer) if self.stream else self._send(self.chat, text, printer)
        except KeyboardInterrupt:
            printer.end_line()
            if printer.has_text:
                output.print_note("stopped: the partial reply is saved")
            else:
                output.print_note("stopped before the reply started: the question is saved")
            return None
        except ModelError:
            printer.end_line()
            if printer.has_text:
                output.print_note("the reply broke off: the partial reply is saved")
            raise
        printer.end_line()
        if not self.quiet:
            _print_remarks(reply)
            if self.usage:
                output.print_note(_describe_usage(reply))
        return reply

    def _stream(self, chat: Chat, text: str, printer: _ReplyPrinter) -> Reply:
        with ExitStack() as spinner, chat.stream(text, **self.params) as events:
            spinner.enter_context(output.show_spinner("waiting for the reply"))
            for event in events:
                if isinstance(event, Retrying):
                    output.print_note(f"{event.reason}: trying again in {event.delay_s:.1f} s")
                # The driver sleeps after this event, and nothing of a reply can be lost then.
                self.guard.is_waiting = isinstance(event, Retrying)
                if event.text:
                    spinner.close()
                    printer.write(event.text)
        return events.reply

    def _send(self, chat: Chat, text: str, printer: _ReplyPrinter) -> Reply:
        with output.show_spinner("waiting for the reply"):
            reply = chat.send(text, **self.params)
        printer.write(reply.text)
        return reply


@dataclass(slots=True)
class _ReplyPrinter:
    """Prints the chunks of one reply."""

    quiet: bool
    has_text: bool = False
    is_line_open: bool = False

    def write(self, text: str) -> None:
        if not text:
            return
        self.has_text = True
        self.is_line_open = not text.endswith("\n")
        if not self.quiet:
            output.write_text(text)

    def end_line(self) -> None:
        """Make the next output start on a line of its own."""
        if self.is_line_open and not self.quiet:
            output.write_text("\n")
        self.is_line_open = False


def _print_remarks(reply: Reply) -> None:
    for change in reply.changes:
        output.print_note(f"note: {change.parameter} was {change.action}: {change.reason}")
    if reply.finish == "cut":
        output.print_note("note: the reply was cut at its length limit (--max-output-tokens)")
    elif reply.finish == "unknown" and reply.finish_reason:
        output.print_note(f"note: unknown finish reason {reply.finish_reason!r}: the reply may not be complete")
    if not reply.text:
        output.print_note(f"note: the reply has no text (finish reason: {reply.finish_reason})")


def _describe_usage(reply: Reply) -> str:
    """Return the tokens of a reply as the server reported them."""
    usage = reply.usage
    if usage.source != "reported":  # estimated by convokit: only the server knows its cache
        return f"usage: {describe_cached(None, None, _expected_cached_tokens(reply))}"
    cached = describe_cached(usage.prompt_tokens, usage.cached_tokens, _expected_cached_tokens(reply))
    return f"usage: {cached}" + (
        "" if usage.completion_tokens is None else f"; {usage.completion_tokens:,} reply tokens"
    )


def _expected_cached_tokens(reply: Reply) -> int:
    return reply.context.stable_tokens if isinstance(reply.context, Report) else 0


def dump_reply(chat: Chat, reply: Reply) -> dict[str, Any]:
    """Return a reply for `--json`."""
    return {
        "text": reply.text,
        "conversation_id": str(chat.id),
        "key": chat.key,
        "turn_id": str(reply.turn_id),
        "usage": reply.usage.model_dump(mode="json"),
        "expected_cached_tokens": _expected_cached_tokens(reply),
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "changes": [change.model_dump(mode="json") for change in reply.changes],
    }
