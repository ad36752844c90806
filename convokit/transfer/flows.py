"""Run exports and imports, with one transaction for each conversation.

Files are read and written in a thread, so that an event loop is not blocked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TextIO
from uuid import UUID

from convokit.completion.effects import Flow, read_flow, read_once_flow, thread_flow, write_once_flow
from convokit.completion.recovery import resolve_counter
from convokit.completion.state import KitState, check_schema_flow
from convokit.domain.ids import derive_conversation_id, parse_id
from convokit.domain.paging import Progress
from convokit.errors import BadRecord, InvalidInput, NotFound, SettingsError
from convokit.transfer import sql
from convokit.transfer.drafts import validate_label
from convokit.transfer.export import Exporter
from convokit.transfer.formats import IMPORT_FORMATS
from convokit.transfer.import_file import ImportFile
from convokit.transfer.importer import Importer
from convokit.transfer.models import (
    MAX_PROBLEMS,
    Exported,
    ExportFormat,
    Imported,
    ImportFormat,
    ImportTarget,
    OnError,
    RecordResult,
    Skipped,
)
from convokit.transfer.restore import Restorer

_ID_PAGE = 500


def export_flow(
    kit: KitState,
    to: str | Path | TextIO,
    *,
    format: ExportFormat,
    key: str | None,
    conversations: Iterable[UUID | str] | None,
    subject: str | None,
    progress: Progress | None,
) -> Flow[Exported]:
    """Export the conversations of a key, some, those of a subject, or all. Raises: InvalidInput, NotFound, TransferFailed."""
    exporter = Exporter(to, format, progress)
    if sum(each is not None for each in (key, conversations, subject)) > 1:
        raise InvalidInput("key", "pass only one of key, conversations and subject")
    ids = None if conversations is None else [parse_id(each, "conversations") for each in conversations]
    database_id = yield from check_schema_flow(kit)
    if key is not None:
        ids = [derive_conversation_id(database_id, kit.tenant, key)]
    if progress is not None and ids is None:
        exporter.total = yield from read_flow(sql.count_messages, kit.tenant, subject=subject)
    try:
        yield from thread_flow(exporter.open, database_id=database_id, tenant=kit.tenant, now_us=kit.clock.now_us())
        if ids is None:
            yield from _export_all_flow(kit, exporter, subject)
        for id_ in ids or ():
            if not (yield from read_once_flow(exporter.write_conversation, kit.tenant, id_)):
                raise NotFound("conversation", key if key is not None else id_)
        return (yield from thread_flow(exporter.finish))
    except Exception:
        exporter.discard()
        raise


def _export_all_flow(kit: KitState, exporter: Exporter, subject: str | None) -> Flow[None]:
    after: UUID | None = None
    while True:
        ids = yield from read_flow(sql.list_conversation_ids, kit.tenant, subject=subject, after=after, limit=_ID_PAGE)
        for id_ in ids:
            # A conversation that was purged meanwhile is left out.
            yield from read_once_flow(exporter.write_conversation, kit.tenant, id_)
        if len(ids) < _ID_PAGE:
            return
        after = ids[-1]


def import_flow(
    kit: KitState,
    source: str | Path | IO[Any],
    *,
    format: ImportFormat,
    key: str | None,
    on_error: OnError,
    progress: Progress | None,
) -> Flow[Imported]:
    """Import every record of a file. Raises: BadRecord, InvalidInput, SettingsError, TransferFailed."""
    if format not in IMPORT_FORMATS:
        raise SettingsError("format", f"must be one of {', '.join(IMPORT_FORMATS)}, not {format!r}")
    if key is not None:
        _validate_key(kit, format, key)
    file = ImportFile(source)
    reader_class = IMPORT_FORMATS[format]
    importer: Importer | Restorer
    if reader_class is None:
        importer = Restorer(file)
    else:
        importer = Importer(file, reader_class(file, kit.limits, key), resolve_counter(kit, None))
    if on_error not in ("raise", "skip"):
        raise SettingsError("on_error", f'must be "raise" or "skip", not {on_error!r}')
    database_id = yield from check_schema_flow(kit)
    tally = _Tally(on_error)
    try:
        target = ImportTarget(database_id, kit.tenant, kit.clock.now_us())
        yield from thread_flow(importer.open, target=target)
        if isinstance(importer, Restorer) and importer.damage is not None:
            tally.add_problem(importer.damage)
        while True:
            try:
                if not (yield from thread_flow(importer.read_record)):
                    return tally.sum_up()
                tally.add_result((yield from write_once_flow(importer.write_record)))
            except BadRecord as error:
                tally.add_problem(error)
            if progress is not None:
                progress(file.done, file.size)
    finally:
        file.close()


def _validate_key(kit: KitState, format: ImportFormat, key: str) -> None:
    reader_class = IMPORT_FORMATS[format]
    if reader_class is None or not reader_class.takes_key:
        raise InvalidInput("key", f"the format {format} takes no key: its conversations bring their own")
    if not validate_label("key", key, kit.limits):
        raise InvalidInput("key", "is empty")


class _Tally:
    """Counts the records of an import."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._counts = dict.fromkeys(("conversations", "messages", "unchanged", "rechained", "skipped"), 0)
        self._problems: list[Skipped] = []

    def add_result(self, result: RecordResult) -> None:
        if result.unchanged:
            self._counts["unchanged"] += 1
            return
        self._counts["conversations"] += 1
        self._counts["messages"] += result.messages
        self._counts["rechained"] += result.rechained

    def add_problem(self, error: BadRecord) -> None:
        """Count a skipped record. Raises: BadRecord, the given one, if records must not be skipped."""
        if self._on_error == "raise":
            raise error
        self._counts["skipped"] += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Skipped(line=error.line or 0, problem=error.problem))

    def sum_up(self) -> Imported:
        return Imported(**self._counts, problems=tuple(self._problems))
