"""Define the exceptions of convokit.

Each class takes facts and forms its message from them. The facts are attributes with plain data. No exception holds an HTTP
object, a database object or an API key. Only `partial`, `text` and `unsaved` hold text of a conversation.

ConvokitError
├─ SettingsError (ValueError)      a setting or parameter is missing, unknown or out of range
├─ InvalidInput ─ TooLarge         (ValueError) a value cannot be stored or sent; it exceeds a limit: size, limit
├─ NotFound (LookupError)          no such conversation, turn or message
├─ StoreError                      the database
│  ├─ StoreUnavailable             missing, unreachable, read-only or not a database
│  │  └─ StoreFull · ReadOnly      no space left to write; the kit or the server only reads: action
│  └─ KitClosed · SchemaOutdated   the kit was closed; the tables are older or newer than this version supports
├─ ContextOverflow                 the request does not fit the context window: needed, available tokens
├─ ConversationBusy                another turn is open on the branch: turn, since_s
├─ HeadMoved                       other messages were written since the caller read: expected, actual
├─ IdempotencyConflict             the idempotency key was used for another request
├─ Redacted                        the requested text was redacted or erased: conversation, what
├─ ChainBroken                     the stored history was altered: conversation, entry, ref
├─ TransferFailed                  an export cannot be written, or an import cannot be read: file, line
│  └─ BadRecord (ValueError) ─ ConversationExists
├─ CheckpointError (ValueError)    a checkpoint cannot be used: checkpoint, reason
├─ ToolFailed                      a tool round did not finish: UnknownTool · BadArguments · TooManyRounds
├─ ParseFailed                     a reply is not of the requested type: Refused · Truncated · ValidationFailed
└─ ModelError                      the API call failed: .status .code .retryable .partial …
   ├─ Unreachable                  no connection
   ├─ TimedOut (TimeoutError)      phase: connect, first_byte, stall or total
   ├─ Rejected ─ UnsupportedFeature   4xx: the request is at fault, or needs a feature that the model or server lacks
   ├─ ContentFiltered              a content filter stopped the prompt or the reply: categories
   ├─ RateLimited · QuotaExhausted    429: a retry may succeed; 429 or 402: it cannot
   ├─ ServerFailed · BadReply      5xx; the response is not a Chat Completions response
   └─ Interrupted                  the reply broke off, or its reader left
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any


class ConvokitError(Exception):
    """The base class of all exceptions that convokit raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling calls the constructor with `args` only, and these constructors need keywords.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SettingsError(ConvokitError, ValueError):
    """A setting or request parameter is missing, unknown or out of range. `setting` is its name."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting


class InvalidInput(ConvokitError, ValueError):
    """A value cannot be stored or sent. `field` is its name or path. Raised before any write and any API call."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class TooLarge(InvalidInput):
    """A value exceeds a limit, which `setting` names. `size` and `limit` are in bytes, or in the unit of the message."""

    def __init__(self, field: str, size: int, limit: int, *, setting: str, unit: str = "bytes") -> None:
        problem = f"{size:,} {unit} is over the limit of {limit:,} ({setting}): shorten it or raise the limit"
        super().__init__(field, problem)
        self.size, self.limit, self.setting = size, limit, setting


class NotFound(ConvokitError, LookupError):
    """The tenant has no such conversation, turn or message. The error is the same if another tenant has it."""

    def __init__(self, kind: str, name: object, hint: str = "") -> None:
        super().__init__(f"no {kind} {name!s}" + (f": {hint}" if hint else ""))
        self.kind, self.name = kind, str(name)


class StoreError(ConvokitError):
    """A database operation failed. `unsaved` is the text of a reply that was received but not stored: save it yourself."""

    unsaved = ""


class StoreUnavailable(StoreError):
    """The database is missing, unreachable, read-only, or not a database. `transient`: a retry may succeed."""

    def __init__(self, database: str, problem: str, *, transient: bool = False) -> None:
        super().__init__(f"{database}: {problem}")
        self.database, self.transient = database, transient


class StoreFull(StoreUnavailable):
    """The disk or the quota of the database is full. The transaction was rolled back."""


class ReadOnly(StoreUnavailable):
    """`action` was refused: the kit was made with `read_only=True`, or the server is a standby or a demoted primary.

    A read-only kit refuses before it sends anything. For a server, `transient` is True: a failover may be in progress.
    """

    def __init__(self, database: str, action: str, *, server: str | None = None) -> None:
        reason = server or "the kit is read-only: use one without read_only=True"
        super().__init__(database, f"{action} was refused, because {reason}", transient=server is not None)
        self.action = action


class KitClosed(StoreError):
    """The kit was closed."""

    def __init__(self, database: str) -> None:
        super().__init__(f"{database}: the kit was closed; make another one")
        self.database = database


class SchemaOutdated(StoreError):
    """The tables do not fit this version of convokit. `has` is their revision (None: no tables), `needs` the required one."""

    def __init__(self, database: str, *, has: str | None, needs: str, action: str) -> None:
        state = "has no convokit tables" if has is None else f"is at revision {has}"
        super().__init__(f"{database} {state}, this version of convokit needs {needs}: {action}")
        self.database, self.has, self.needs = database, has, needs


class ContextOverflow(ConvokitError):
    """The request needs more tokens, as counted by `counter`, than are available. None: only the server knows the number."""

    def __init__(self, needed: int | None, available: int | None, *, counter: str = "", detail: str = "") -> None:
        texts = ["an unknown number of" if each is None else f"{each:,}" for each in (needed, available)]
        numbers = f"the request needs {texts[0]} tokens, {texts[1]} are available"
        source = f" (counted by {counter})" if counter else ""
        detail = f": {detail}" if detail else "; shorten the message or the developer prompt, or raise the budget"
        super().__init__(numbers + source + detail)
        self.needed, self.available, self.counter = needed, available, counter


class ConversationBusy(ConvokitError):
    """Another turn is open on the branch. It started `since_s` seconds ago (None: unknown)."""

    def __init__(self, conversation: object, turn: object, since_s: float | None = None) -> None:
        age = "" if since_s is None else f", for {since_s:.1f} s"
        problem = f"conversation {conversation} has an open turn ({turn}{age})"
        super().__init__(f"{problem}: wait for it, cancel it, or supersede it (on_busy)")
        self.conversation, self.turn, self.since_s = str(conversation), str(turn), since_s


class HeadMoved(ConvokitError):
    """The branch ends with message `actual`, not with `expected`, the last one that the caller read. 0: before the first."""

    def __init__(self, conversation: object, branch: object, expected: int, actual: int) -> None:
        on_branch = f", branch {branch}" if branch else ""
        problem = f"conversation {conversation}{on_branch} ends with message {actual}, not {expected}"
        super().__init__(f"{problem}: read the messages again, then pass expect={actual}")
        self.conversation, self.branch, self.expected, self.actual = str(conversation), branch, expected, actual


class IdempotencyConflict(ConvokitError):
    """The idempotency key was used for another request."""

    def __init__(self, conversation: object, turn: object) -> None:
        super().__init__(f"the idempotency key is of another request (turn {turn} of {conversation}): use a new key")
        self.conversation, self.turn = str(conversation), str(turn)


class Redacted(ConvokitError):
    """The requested text was redacted or erased on purpose. `what` names it."""

    def __init__(self, conversation: object, what: str) -> None:
        super().__init__(f"{what} of conversation {conversation} was erased")
        self.conversation, self.what = str(conversation), what


class ChainBroken(ConvokitError):
    """The stored history was altered. `entry` is the first chain entry that differs, `ref` the row that it names."""

    def __init__(self, conversation: object, entry: int, ref: str, problem: str) -> None:
        super().__init__(f"conversation {conversation}, entry {entry} ({ref}): {problem}")
        self.conversation, self.entry, self.ref = str(conversation), entry, ref


class TransferFailed(ConvokitError):
    """A file cannot be written or read. `line` is the line number in the file, or None."""

    def __init__(self, file: str, problem: str, line: int | None = None) -> None:
        super().__init__(f"{file}{'' if line is None else f', line {line:,}'}: {problem}")
        self.file, self.line, self.problem = file, line, problem


class BadRecord(TransferFailed, ValueError):
    """A record of an import is invalid. Nothing of it was written; all records before it were."""


class ConversationExists(BadRecord):
    """Another conversation has the key or id of an imported one."""


class CheckpointError(ConvokitError, ValueError):
    """A checkpoint cannot be used. That shows nothing about the history.

    `reason`: file (not readable or writable), format (not a checkpoint, or cut off), signature (altered, or another key),
    database or tenant (it belongs to another one).
    """

    def __init__(self, checkpoint: str, problem: str, reason: str) -> None:
        super().__init__(f"{checkpoint}: {problem}")
        self.checkpoint, self.reason = checkpoint, reason


class ToolFailed(ConvokitError):
    """A tool round did not finish. `tool` is the name of the tool."""

    def __init__(self, tool: str, problem: str) -> None:
        super().__init__(f"tool {tool!r}: {problem}")
        self.tool = tool


class UnknownTool(ToolFailed):
    """The model called a tool that was not in the request."""


class BadArguments(ToolFailed):
    """The model's arguments do not fit the tool's signature."""


class TooManyRounds(ToolFailed):
    """The model called tools in more than `rounds` rounds. All rounds are saved."""

    def __init__(self, rounds: int) -> None:
        super().__init__("*", "")
        self.args = (f"the model still calls tools after {rounds} rounds: raise max_tool_rounds",)
        self.rounds = rounds


class ParseFailed(ConvokitError):
    """The reply is not of the requested type. It is saved; `text` is its text."""

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(problem)
        self.text = text


class Refused(ParseFailed):
    """The model refused to answer. `text` is its refusal."""

    def __init__(self, text: str) -> None:
        super().__init__("the model refused to answer", text)


class Truncated(ParseFailed):
    """The reply reached its length limit before it was complete."""

    def __init__(self, text: str) -> None:
        super().__init__("the reply was cut at its length limit: raise max_output_tokens", text)


class ValidationFailed(ParseFailed):
    """The reply is complete and does not fit its schema. `problems` has a line for each invalid value."""

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__("the reply does not fit its schema: " + "; ".join(problems[:5]), text)
        self.problems = problems


class ModelError(ConvokitError):
    """The API call failed. Any attribute may be None or empty. `retryable`: a new call may succeed."""

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        partial: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.type, self.param = status, code, type, param
        self.request_id, self.retry_after_s, self.partial = request_id, retry_after_s, partial
        self.should_retry: bool | None = None
        """The server's header `x-should-retry`. False too if the response had already started."""
        self.turn_id: str | None = None


class Unreachable(ModelError):
    """There was no connection, or it was lost before the server can have processed the request."""

    retryable = True


class TimedOut(ModelError, TimeoutError):
    """A limit of `Timeouts` was exceeded. `phase` is connect (only this one is retryable), first_byte, stall or total."""

    def __init__(self, message: str, *, phase: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.phase = phase
        self.retryable = phase == "connect"  # later the server may have processed the request, and billed it


class Rejected(ModelError):
    """The server refused the request (400, 401, 403, 404, 413, 422 …). The same request will fail again."""


class UnsupportedFeature(Rejected):
    """The model or server does not support a feature of the request. `hint` says what works instead."""

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.hint = hint


class ContentFiltered(ModelError):
    """A content filter stopped the prompt or the reply. `categories` maps each category to the filter's result."""

    def __init__(self, message: str, *, categories: Mapping[str, Any], **facts: Any) -> None:
        super().__init__(message, **facts)
        self.categories = dict(categories)


class RateLimited(ModelError):
    """Too many requests. `retry_after_s` is the delay that the server asked for, if it did."""

    retryable = True


class QuotaExhausted(ModelError):
    """The credit, quota or spending limit is used up. A retry cannot succeed."""


class ServerFailed(ModelError):
    """The server failed (408, 409, 5xx)."""

    retryable = True


class BadReply(ModelError):
    """The response is not a Chat Completions response. The message contains an excerpt."""


class Interrupted(ModelError):
    """The reply broke off, or its reader left. `partial` is the text that was received; it is saved."""
