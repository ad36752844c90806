"""Write conversations to an export file.

Each conversation is read in one transaction, page by page, so memory does not grow with its length.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TextIO
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.paging import Progress
from convokit.errors import SettingsError, TransferFailed
from convokit.store import conversations
from convokit.transfer import format_jsonl
from convokit.transfer.files import ExportFile
from convokit.transfer.formats import EXPORT_FORMATS
from convokit.transfer.models import Exported, ExportFormat


class Exporter:
    """Writes one export. `total` is the number of messages to report as its size, if known."""

    def __init__(self, to: str | Path | TextIO, format: ExportFormat, progress: Progress | None) -> None:
        if format not in EXPORT_FORMATS:
            raise SettingsError("format", f"must be one of {', '.join(EXPORT_FORMATS)}, not {format!r}")
        self._file = ExportFile(to)
        self._export_conversation = EXPORT_FORMATS[format]
        self._has_header = format == "jsonl"
        self._digest = hashlib.sha256()
        self._lines = 0
        self._conversations = 0
        self._messages = 0
        self._progress = progress
        self.total: int | None = None

    def open(self, database_id: UUID, tenant: str, now_us: int) -> None:
        """Open the file and write its header. Raises: TransferFailed."""
        self._file.open()
        if self._has_header:
            self._write(format_jsonl.encode_header(database_id, tenant, now_us))

    def write_conversation(self, connection: Connection, tenant: str, conversation_id: UUID) -> bool:
        """Write a conversation. Return whether it exists. Raises: TransferFailed."""
        row = conversations.find(connection, tenant, conversation_id)
        if row is None:
            return False
        is_empty = True
        for text, messages in self._export_conversation(connection, row):
            self._write(text)
            is_empty = False
            if messages:
                self._messages += messages
                if self._progress is not None:
                    self._progress(self._messages, self.total)
        self._conversations += not is_empty
        return True

    def finish(self) -> Exported:
        """Write the footer and put the file in its place. Raises: TransferFailed."""
        digest = self._digest.hexdigest()
        if self._has_header:
            self._write(format_jsonl.encode_footer(self._conversations, self._messages, self._lines, digest))
        self._file.close(complete=True)
        return Exported(conversations=self._conversations, messages=self._messages, lines=self._lines, sha256=digest)

    def discard(self) -> None:
        """Delete the unfinished file, unless the caller opened it."""
        with contextlib.suppress(TransferFailed):
            self._file.close(complete=False)

    def _write(self, text: str) -> None:
        self._digest.update(text.encode("utf-8"))
        self._lines += text.count("\n")
        self._file.write(text)
