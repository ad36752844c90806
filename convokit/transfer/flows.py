"""The flows of an export and an import: which conversations, one transaction each, and what became of them.

How a file looks is no matter of theirs: a writer or reader does that, in a thread where there is an event loop to keep free.

Which reader a format has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow, read_once_flow, thread_flow, write_once_flow
from convokit.completion.state import KitState, check_schema_flow
from convokit.domain.ids import derive_conversation_id, parse_id
from convokit.domain.paging import Progress
from convokit.domain.text import validate_text
from convokit.errors import BadRecord, InvalidInput, NotFound, SettingsError, TooLarge
from convokit.settings import Limits
from convokit.tokens.counter import Counter
from convokit.transfer import format_chatgpt, format_messages, sql
from convokit.transfer.importer import Foreign
from convokit.transfer.models import MOST_PROBLEMS, Exported, Imported, ImportFormat, OnError, Place, Skipped, Written
from convokit.transfer.reader import Source
from convokit.transfer.restore import Restore

Result = TypeVar("Result")
_IDS = 500
FORMATS = ("jsonl", "chatgpt", "messages")


class Writer(Protocol):
    """Writes an export, a conversation at a time."""

    progress: Callable[[int], None]

    def begin(self, database_id: UUID, tenant: str, at: int) -> None: ...
    def conversation(self, connection: Connection, tenant: str, conversation_id: UUID) -> bool: ...
    def end(self) -> Exported: ...
    def abandon(self) -> None: ...


class Reader(Protocol):
    """Reads a file to import, a record at a time. Each record is one transaction, and `write` what happens in it."""

    def begin(self, place: Place) -> None: ...
    def damage(self) -> BadRecord | None: ...
    def take(self) -> bool: ...
    def write(self, connection: Connection) -> Written: ...
    def reached(self) -> tuple[int, int | None]: ...
    def close(self) -> None: ...


def export(
    scope: KitState,
    writer: Writer,
    *,
    key: str | None,
    conversations: Iterable[UUID | str] | None,
    subject: str | None,
    progress: Progress | None,
) -> Flow[Exported]:
    """Write the conversations that were asked for. Raises: NotFound, TransferFailed."""
    if sum(each is not None for each in (key, conversations, subject)) > 1:
        raise InvalidInput("key", "give a key, conversations or a subject, and only one of them")
    named = None if conversations is None else [parse_id(each, "conversations") for each in conversations]
    database_id = yield from check_schema_flow(scope)
    if key is not None:
        named = [derive_conversation_id(database_id, scope.tenant, key)]
    if progress is not None:
        all_of_it = None if named is not None else (yield from read_flow(sql.total, scope.tenant, subject=subject))
        writer.progress = lambda done: progress(done, all_of_it)
    try:
        yield from thread_flow(writer.begin, database_id=database_id, tenant=scope.tenant, at=scope.clock.now_us())
        if named is not None:
            for each in named:
                if not (yield from read_once_flow(writer.conversation, scope.tenant, each)):
                    raise NotFound("conversation", key if key is not None else each)
        else:
            yield from _all(scope, writer, subject)
        return (yield from thread_flow(writer.end))
    except Exception:
        writer.abandon()
        raise


def _all(scope: KitState, writer: Writer, subject: str | None) -> Flow[None]:
    after: UUID | None = None
    while True:
        found = yield from read_flow(sql.ids, scope.tenant, subject=subject, after=after, limit=_IDS)
        for each in found:
            yield from read_once_flow(
                writer.conversation, scope.tenant, each
            )  # one that was purged meanwhile is no error
        if len(found) < _IDS:
            return
        after = found[-1]


def import_(scope: KitState, reader: Reader, *, on_error: OnError, progress: Progress | None) -> Flow[Imported]:
    """Write every record of a file. Raises: TransferFailed, and BadRecord where bad ones are not to be skipped."""
    if on_error not in ("raise", "skip"):
        raise SettingsError("on_error", f'must be "raise" or "skip", not {on_error!r}')
    database_id = yield from check_schema_flow(scope)
    tally = _Tally()
    try:
        yield from thread_flow(reader.begin, place=Place(database_id, scope.tenant, scope.clock.now_us()))
        tally.note(reader.damage(), on_error)
        while True:
            try:
                if not (yield from thread_flow(reader.take)):
                    return tally.value()
                tally.add((yield from write_once_flow(reader.write)))
            except BadRecord as error:
                tally.note(error, on_error)
            if progress is not None:
                progress(*reader.reached())
    finally:
        reader.close()


class _Tally:
    def __init__(self) -> None:
        self.counted = dict.fromkeys(("conversations", "messages", "unchanged", "rechained", "skipped"), 0)
        self.problems: list[Skipped] = []

    def add(self, written: Written) -> None:
        if written.messages is None:
            self.counted["unchanged"] += 1
            return
        self.counted["conversations"] += 1
        self.counted["messages"] += written.messages
        self.counted["rechained"] += written.rechained

    def note(self, error: BadRecord | None, on_error: OnError) -> None:
        """Count a bad record. Raises: it, where bad records are not to be skipped."""
        if error is None:
            return
        if on_error == "raise":
            raise error
        self.counted["skipped"] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Skipped(line=error.line or 0, problem=error.problem))

    def value(self) -> Imported:
        return Imported(**self.counted, problems=tuple(self.problems))


def reader(
    given: str | Path | IO[Any], form: ImportFormat, *, key: str | None, limits: Limits, counter: Counter
) -> Restore | Foreign:
    """Return what reads a file; nothing is opened yet. Raises: SettingsError, InvalidInput."""
    if form not in FORMATS:
        raise SettingsError("format", f"must be one of {', '.join(FORMATS)}, not {form!r}")
    if key is not None:
        if form != "messages":
            raise InvalidInput("key", f"is for messages; conversations of the format {form} bring their own")
        validate_text("key", key, limit=limits.key_chars * 4, setting="Limits.key_chars")
        if not key:
            raise InvalidInput("key", "is empty")
        if len(key) > limits.key_chars:
            raise TooLarge("key", len(key), limits.key_chars, setting="Limits.key_chars", unit="characters")
    source = Source(given)
    if form == "jsonl":
        return Restore(source)
    if form == "chatgpt":
        folder = source.path.parent if source.path is not None else None
        return Foreign(source, format_chatgpt.values, format_chatgpt.Exports(limits, folder), counter)
    return Foreign(source, format_messages.values, format_messages.Arrays(limits, key), counter)
