"""Write conversations to an export file.

The file replaces an older one only when it is complete. Each conversation is read in one transaction, page by page, so memory
does not grow with its length.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import Connection

from convokit._files import open_replacement
from convokit.domain.paging import Progress
from convokit.errors import SettingsError, TransferFailed
from convokit.store import conversations
from convokit.transfer import format_jsonl
from convokit.transfer.formats import EXPORT_FORMATS
from convokit.transfer.models import Exported, ExportFormat


class ExportFile:
    """A file to export to: a path, or a text file that the caller opened."""

    def __init__(self, to: str | Path | TextIO) -> None:
        self._given = to
        self._path = Path(to) if isinstance(to, str | Path) else None
        self._temp_path: Path | None = None
        self._file: Any = None
        self.name = str(to) if self._path is not None else str(getattr(to, "name", "the file given"))
        if self._path is None and not hasattr(to, "write"):
            raise SettingsError("to", f"must be a path or a text file, not {type(to).__name__}")

    def open(self) -> None:
        """Open a temporary file next to the path. Raises: TransferFailed."""
        if self._path is None:
            self._file = self._given
            return
        # A pipe or /dev/stdout cannot be replaced: write to it directly.
        direct = self._path.exists() and not self._path.is_file()
        if not direct:
            self._temp_path = self._path.with_name(f".{self._path.name}.{os.urandom(4).hex()}.part")
        with self._translate_errors():
            if self._temp_path is not None:
                self._file = open_replacement(self._temp_path, self._path)
            else:
                self._file = open(self._path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Write text. Raises: TransferFailed."""
        with self._translate_errors():
            self._file.write(text)

    def close(self, *, complete: bool) -> None:
        """Close the file. A complete one replaces the path, any other is deleted. Raises: TransferFailed."""
        file, self._file = self._file, None
        if self._path is None or file is None:
            return
        with self._translate_errors():
            try:
                if complete and self._temp_path is not None:
                    file.flush()
                    os.fsync(file.fileno())  # a power cut after the rename must not leave an empty file
                file.close()
                if complete and self._temp_path is not None:
                    os.replace(self._temp_path, self._path)
            finally:
                if self._temp_path is not None:
                    self._temp_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: a closed file, or NUL in the path
            raise TransferFailed(
                self.name, f"cannot be written ({getattr(error, 'strerror', None) or error})"
            ) from None
        except TypeError:
            raise TransferFailed(self.name, 'is open in binary mode; open it in text mode ("w", not "wb")') from None


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
