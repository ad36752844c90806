"""Everything convokit raises, one tree. Each class takes facts and makes its own sentence; the facts stay readable as
attributes that are plain data. No error carries an HTTP or database object or a key, and people's words only where it says so:
`partial` and `text` hold what came of a reply.

ConvokitError
├─ SettingsError (ValueError)      a setting or parameter is missing, unknown or out of range
├─ InvalidInput (ValueError)       a text or value that cannot be stored or sent as it is
│  └─ TooLarge                     it is over a limit: size, limit
├─ NotFound (LookupError)          no such conversation, turn or message
├─ StoreError                      the database
│  ├─ StoreUnavailable             not there, not reachable, not writable, not a database
│  │  └─ StoreFull                 no room left to write
│  ├─ KitClosed                    the kit was closed
│  └─ SchemaOutdated               the tables are older, or newer, than this code can use
├─ ContextOverflow                 what must be sent does not fit: needed, available tokens
├─ ConversationBusy                another turn is open on this branch: turn, since
├─ IdempotencyConflict             the same key came with another request
├─ ChainBroken                     the history was altered: conversation, entry, what differs
├─ TransferFailed                  an export that cannot be written, an import that cannot be read: file, line
│  └─ BadRecord (ValueError) ─ ConversationExists
├─ CheckpointError (ValueError)    a checkpoint that proves nothing here: whose, what is wrong with it
├─ ToolFailed                      a tool round could not be finished
│  ├─ UnknownTool · BadArguments · TooManyRounds
├─ ParseFailed                     a structured reply that is not one: Refused · Truncated · ValidationFailed
└─ ModelError                      the API call: .status .code .retryable .partial …
   ├─ Unreachable                  no connection was made
   ├─ TimedOut (TimeoutError)      connect, first byte, stall or total
   ├─ Rejected                     4xx: the request is at fault
   │  └─ UnsupportedFeature        this model or server cannot do that
   ├─ ContentFiltered              a content filter stopped it: categories
   ├─ RateLimited                  429, worth waiting for
   ├─ QuotaExhausted               429 or 402, not worth waiting for
   ├─ ServerFailed                 5xx
   ├─ BadReply                     an answer that is not Chat Completions
   └─ Interrupted                  the reply broke off, or its reader left
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ConvokitError(Exception):
    """The base of every error convokit raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value: constructors take keywords, which Exception's own protocol cannot pass."""
        return _revive, (type(self), self.args, self.__dict__)


def _revive(cls: type[ConvokitError], args: tuple[Any, ...], facts: dict[str, Any]) -> ConvokitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class SettingsError(ConvokitError, ValueError):
    """A setting or request parameter is missing, unknown or out of range; `setting` names it."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting


class InvalidInput(ConvokitError, ValueError):
    """A value that cannot be stored or sent as it is. Raised before anything is written or called."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class TooLarge(InvalidInput):
    """A value over a limit of `Limits`; both numbers in `unit` (bytes unless said)."""

    def __init__(self, field: str, size: int, limit: int, *, setting: str, unit: str = "bytes") -> None:
        super().__init__(field, f"{size:,} {unit} is over the limit of {limit:,} ({setting})")
        self.size = size
        self.limit = limit
        self.setting = setting


class NotFound(ConvokitError, LookupError):
    """No such conversation, turn or message for this tenant. Another tenant's looks exactly the same."""

    def __init__(self, kind: str, name: object, hint: str = "") -> None:
        super().__init__(f"no {kind} {name!s}" + (f": {hint}" if hint else ""))
        self.kind = kind
        self.name = str(name)


class StoreError(ConvokitError):
    """The database could not do what was asked."""


class StoreUnavailable(StoreError):
    """The database is not there, not reachable, not writable, or not a database at all.

    `transient` says that it may pass by itself (a restart, a dropped connection, a deadlock). `unsaved` is the text of a reply
    that came and could not be saved, where there is one: the last thing between it and being lost.
    """

    def __init__(self, database: str, problem: str, *, transient: bool = False) -> None:
        super().__init__(f"{database}: {problem}")
        self.database = database
        self.transient = transient
        self.unsaved = ""


class StoreFull(StoreUnavailable):
    """The disk, file or quota under the database has no room left; nothing of the transaction was kept."""


class KitClosed(StoreError):
    """The kit was closed: make another one."""

    def __init__(self, database: str) -> None:
        super().__init__(f"{database}: this kit was closed")
        self.database = database


class SchemaOutdated(StoreError):
    """The tables and this code do not fit: `has` is the database's revision (None: no tables), `needs` the code's."""

    def __init__(self, database: str, *, has: str | None, needs: str, action: str) -> None:
        state = "has no convokit tables" if has is None else f"is at revision {has}"
        super().__init__(f"{database} {state}, this code needs {needs}: {action}")
        self.database = database
        self.has = has
        self.needs = needs


class ContextOverflow(ConvokitError):
    """What must be sent needs more tokens than there are. Both may be None when only the server knows."""

    def __init__(self, needed: int | None, available: int | None, *, counter: str = "", detail: str = "") -> None:
        numbers = f"needs {_count(needed)} tokens, {_count(available)} are available"
        super().__init__(
            f"the request {numbers}"
            + (f" (counted by {counter})" if counter else "")
            + (f": {detail}" if detail else "; shorten the message or the developer prompt, or raise the budget")
        )
        self.needed = needed
        self.available = available
        self.counter = counter


def _count(tokens: int | None) -> str:
    return "an unknown number of" if tokens is None else f"{tokens:,}"


class ConversationBusy(ConvokitError):
    """Another turn is open on this branch; `since_s` seconds ago it began."""

    def __init__(self, conversation: object, turn: object, since_s: float | None = None) -> None:
        age = "" if since_s is None else f", for {since_s:.1f} s"
        super().__init__(
            f"conversation {conversation} is answering another turn ({turn}{age}): wait for it, or supersede it (on_busy)"
        )
        self.conversation = str(conversation)
        self.turn = str(turn)
        self.since_s = since_s


class IdempotencyConflict(ConvokitError):
    """The same idempotency key came with another request."""

    def __init__(self, conversation: object, turn: object) -> None:
        super().__init__(
            f"this idempotency key was used for another request (turn {turn} of {conversation}): use a new key"
        )
        self.conversation = str(conversation)
        self.turn = str(turn)


class ChainBroken(ConvokitError):
    """The stored history is not the history that was written; `entry` is the first place that differs."""

    def __init__(self, conversation: object, entry: int, ref: str, problem: str) -> None:
        super().__init__(f"conversation {conversation}, entry {entry} ({ref}): {problem}")
        self.conversation = str(conversation)
        self.entry = entry
        self.ref = ref


class TransferFailed(ConvokitError):
    """A file that cannot be written or read. `line` is where, None where that is no matter of a line."""

    def __init__(self, file: str, problem: str, line: int | None = None) -> None:
        super().__init__(f"{file}{'' if line is None else f', line {line:,}'}: {problem}")
        self.file, self.line, self.problem = file, line, problem


class BadRecord(TransferFailed, ValueError):
    """What a file to import holds is not right; nothing of that record was written, all before it was."""


class ConversationExists(BadRecord):
    """What a record would become is there already, and is another conversation."""


class CheckpointError(ConvokitError, ValueError):
    """A checkpoint that proves nothing here; the history itself was not found broken.

    `reason`: file (cannot be read or written), format (is none, or cut off), signature (altered, or another key), database or
    tenant (it was made of another one).
    """

    def __init__(self, checkpoint: str, problem: str, reason: str) -> None:
        super().__init__(f"{checkpoint}: {problem}")
        self.checkpoint = checkpoint
        self.reason = reason


class ToolFailed(ConvokitError):
    """A tool round could not be finished; `tool` is its name."""

    def __init__(self, tool: str, problem: str) -> None:
        super().__init__(f"tool {tool!r}: {problem}")
        self.tool = tool


class UnknownTool(ToolFailed):
    """The model called a tool that was not offered."""


class BadArguments(ToolFailed):
    """The model's arguments do not fit the tool's signature."""


class TooManyRounds(ToolFailed):
    """The model kept calling tools past the limit; everything so far is saved."""

    def __init__(self, rounds: int) -> None:
        super().__init__("*", "")
        self.args = (f"the model still calls tools after {rounds} rounds (max_tool_rounds)",)
        self.rounds = rounds


class ParseFailed(ConvokitError):
    """A structured reply that does not hold the structure; the saved reply's text is in `text`."""

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(problem)
        self.text = text


class Refused(ParseFailed):
    """The model refused; `text` is its refusal."""

    def __init__(self, text: str) -> None:
        super().__init__("the model refused to answer", text)


class Truncated(ParseFailed):
    """The reply hit its length limit before the structure was complete."""

    def __init__(self, text: str) -> None:
        super().__init__("the reply was cut at its length limit: raise max_output_tokens", text)


class ValidationFailed(ParseFailed):
    """The reply is complete but does not fit the schema; `problems` lists each place."""

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__("the reply does not fit its schema: " + "; ".join(problems[:5]), text)
        self.problems = problems


class ModelError(ConvokitError):
    """The API call failed. Every attribute may be None or empty: servers say as much or as little as they like."""

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
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.partial = partial
        self.should_retry: bool | None = None
        """What the server said of trying again (`x-should-retry`); False also where the answer had already begun."""
        self.turn_id: str | None = None


class Unreachable(ModelError):
    """No connection was made, or it was lost before the request can have been processed."""

    retryable = True


class TimedOut(ModelError, TimeoutError):
    """A deadline of `Timeouts` passed; `phase` is connect, first_byte, stall or total."""

    def __init__(self, message: str, *, phase: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.phase = phase

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """Only a timeout before the request was sent is safe to repeat unasked."""
        return self.phase == "connect"


class Rejected(ModelError):
    """The server refused this request (400, 401, 403, 404, 413, 422 …); sending it again cannot help."""


class UnsupportedFeature(Rejected):
    """This model or server cannot do what the request asks; `hint` says what would work."""

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.hint = hint


class ContentFiltered(ModelError):
    """A content filter stopped the prompt or the reply; `categories` maps each one to what the filter said of it."""

    def __init__(self, message: str, *, categories: Mapping[str, Any], **facts: Any) -> None:
        super().__init__(message, **facts)
        self.categories = dict(categories)


class RateLimited(ModelError):
    """Too many requests for now; `retry_after_s` when the server said."""

    retryable = True


class QuotaExhausted(ModelError):
    """Credit, quota or spending limit is used up; waiting does not help."""


class ServerFailed(ModelError):
    """The server failed (408, 409, 5xx)."""

    retryable = True


class BadReply(ModelError):
    """The answer is not a Chat Completions answer; the message holds an excerpt."""


class Interrupted(ModelError):
    """The reply broke off or its reader left; `partial` is the text that came, which is saved."""
