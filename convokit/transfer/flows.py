"""Run exports and imports, with one transaction for each conversation.

Files are read and written in a thread, so that an event loop is not blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow, read_once_flow, thread_flow, write_once_flow
from convokit.completion.recovery import resolve_counter
from convokit.completion.state import KitState, check_schema_flow
from convokit.domain.ids import derive_conversation_id, parse_id
from convokit.domain.paging import Progress
from convokit.errors import BadRecord, InvalidInput, NotFound, SettingsError
from convokit.tokens.counter import Counter as TokenCounter
from convokit.transfer import sql
from convokit.transfer.drafts import validate_label
from convokit.transfer.export import Exporter
from convokit.transfer.format_untrusted import UntrustedReader
from convokit.transfer.formats import IMPORT_FORMATS
from convokit.transfer.import_file import ImportFile
from convokit.transfer.import_sources import ImportSources
from convokit.transfer.importer import FormatReader, Importer, ImportOptions
from convokit.transfer.models import (
    MAX_PROBLEMS,
    Exported,
    ExportFormat,
    Imported,
    ImportFormat,
    ImportSource,
    ImportTarget,
    OnError,
    RecordResult,
    Skipped,
)
from convokit.transfer.rehearsal import ScratchDatabase
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
    source: ImportSource,
    *,
    format: ImportFormat,
    key: str | None,
    prefix: str | None,
    trusted: bool,
    dry_run: bool,
    on_error: OnError,
    progress: Progress | None,
) -> Flow[Imported]:
    """Import every record of the files. Raises: BadRecord, InvalidInput, SettingsError, TransferFailed."""
    if format not in IMPORT_FORMATS:
        raise SettingsError("format", f"must be one of {', '.join(IMPORT_FORMATS)}, not {format!r}")
    if on_error not in ("raise", "skip"):
        raise SettingsError("on_error", f'must be "raise" or "skip", not {on_error!r}')
    reader_class = IMPORT_FORMATS[format]
    restores = trusted and reader_class is UntrustedReader
    _validate_key(kit, format, key, prefix, takes_key=reader_class.takes_key and not restores, restores=restores)
    sources = ImportSources(source)
    make_importer: Callable[[ImportFile], Importer | Restorer] = Restorer
    if not restores:
        options = ImportOptions(kit.limits, key=key, prefix=prefix, trusted=trusted)
        make_importer = partial(_make_importer, reader_class, options, resolve_counter(kit, None))
    database_id = yield from check_schema_flow(kit)
    target = ImportTarget(database_id, kit.tenant, kit.clock.now_us())
    tally = _Tally(on_error, dry_run=dry_run)
    scratch = ScratchDatabase(database_id) if kit.read_only else None
    try:
        files = yield from thread_flow(sources.list_files, patterns=reader_class.file_names)
        meter = _Meter(files, progress)
        for file in files:
            yield from _import_file_flow(file, make_importer(file), target, tally, meter, scratch)
    finally:
        sources.close()
        if scratch is not None:
            scratch.close()
    return tally.sum_up()


def _make_importer(
    reader_class: type[FormatReader], options: ImportOptions, counter: TokenCounter, file: ImportFile
) -> Importer:
    return Importer(file, reader_class(file, options), counter)


def _import_file_flow(
    file: ImportFile,
    importer: Importer | Restorer,
    target: ImportTarget,
    tally: _Tally,
    meter: _Meter,
    scratch: ScratchDatabase | None,
) -> Flow[None]:
    try:
        try:
            yield from thread_flow(importer.open, target=target)
        except BadRecord as error:
            tally.add_problem(error)
            return
        if isinstance(importer, Restorer) and importer.damage is not None:
            tally.add_problem(importer.damage)
        while True:
            try:
                if not (yield from thread_flow(importer.read_record)):
                    return
                if scratch is None:
                    result = yield from _write_flow(importer, dry_run=tally.dry_run)
                else:
                    result = yield from _rehearse_flow(importer, scratch)
                tally.add_result(result)
            except BadRecord as error:
                tally.add_problem(error)
            meter.report(file)
    finally:
        meter.finish(file)
        file.close()


def _write_flow(importer: Importer | Restorer, *, dry_run: bool) -> Flow[RecordResult]:
    if not dry_run:
        return (yield from write_once_flow(importer.write_record))
    try:
        yield from write_once_flow(_rehearse, importer)
    except _Rehearsed as rehearsed:
        return rehearsed.result
    raise AssertionError("a dry run was not rolled back")


def _rehearse_flow(importer: Importer | Restorer, scratch: ScratchDatabase) -> Flow[RecordResult]:
    """Return the result that a record would have, without a write to the kit's database."""
    if (yield from read_once_flow(importer.is_imported)):
        return importer.unchanged
    return (yield from thread_flow(scratch.rehearse, importer=importer))


class _Rehearsed(Exception):
    """Rolls back the transaction of a dry run."""

    def __init__(self, result: RecordResult) -> None:
        super().__init__()
        self.result = result


def _rehearse(connection: Connection, importer: Importer | Restorer) -> None:
    raise _Rehearsed(importer.write_record(connection))


def _validate_key(
    kit: KitState, format: ImportFormat, key: str | None, prefix: str | None, *, takes_key: bool, restores: bool
) -> None:
    if key is not None and not takes_key:
        raise InvalidInput("key", f"the format {format} takes no key: its conversations bring their own")
    if key is not None and prefix is not None:
        raise InvalidInput("prefix", "pass either key or prefix")
    if key is not None and not validate_label("key", key, kit.limits):
        raise InvalidInput("key", "is empty")
    if prefix is not None:
        validate_label("prefix", prefix, kit.limits)
        if restores:
            raise InvalidInput(
                "prefix", "a restored conversation keeps its key; import without trusted, or without prefix"
            )


class _Meter:
    """Reports the progress of an import over all its files."""

    def __init__(self, files: Sequence[ImportFile], progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._known_size = sum(file.size for file in files if file.size is not None)
        self._others = [file for file in files if file.size is None]
        """Pipes, whose size is known when they are copied. An archive may have too many files to ask each one every time."""

    def report(self, current: ImportFile) -> None:
        """Call the caller's function with the amount read and the size of all files, None if it is not known."""
        if self._progress is not None:
            sizes = [self._known_size, *(file.size for file in self._others)]
            total = None if None in sizes else sum(size for size in sizes if size is not None)
            self._progress(self._done + current.done, total)

    def finish(self, file: ImportFile) -> None:
        """Count a file that was read."""
        self._done += file.done


class _Tally:
    """Counts the records of an import."""

    def __init__(self, on_error: OnError, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._on_error = on_error
        self._counts = dict.fromkeys(("conversations", "messages", "unchanged", "rechained", "skipped"), 0)
        self._problems: list[Skipped] = []
        self._left_out: Counter[str] = Counter()
        self._rehearsed: set[UUID] = set()
        """The conversations of a dry run, which a later record does not find in the database."""

    def add_result(self, result: RecordResult) -> None:
        if result.unchanged or result.conversation_id in self._rehearsed:
            self._counts["unchanged"] += 1
            return
        if self.dry_run:
            self._rehearsed.add(result.conversation_id)
        self._counts["conversations"] += 1
        self._counts["messages"] += result.messages
        self._counts["rechained"] += result.rechained
        self._left_out.update(result.left_out)

    def add_problem(self, error: BadRecord) -> None:
        """Count a skipped record. Raises: BadRecord, the given one, if records must not be skipped."""
        if self._on_error == "raise":
            raise error
        self._counts["skipped"] += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Skipped(line=error.line or 0, problem=error.problem, file=error.file))

    def sum_up(self) -> Imported:
        left_out = {kind: count for kind, count in sorted(self._left_out.items()) if count}
        return Imported(**self._counts, problems=tuple(self._problems), left_out=left_out)
