"""Writing conversations out: losslessly as JSON Lines, or for a reader who needs no more than the talk.

A file appears under its name when it is whole. Each conversation is read in one transaction, so in one state, and in pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.errors import SettingsError, TransferFailed
from convokit.store import blobs, conversations
from convokit.transfer import format_text, jsonl, sql
from convokit.transfer.models import Exported, ExportFormat

_REMEMBERED = 1000
"""Prompts that are not written again for the same conversation; an older one may be, which changes nothing."""


class Out:
    """Where an export goes: a path, written beside it first, or a text file that somebody opened."""

    def __init__(self, to: str | Path | TextIO) -> None:
        self._given = to
        self._path = Path(to) if isinstance(to, str | Path) else None
        self._part: Path | None = None
        self._file: Any = None
        self.name = str(to) if self._path is not None else str(getattr(to, "name", "the file given"))
        if self._path is None and not hasattr(to, "write"):
            raise SettingsError("to", f"must be a path or a text file, not {type(to).__name__}")

    def open(self) -> None:
        """Open it. Raises: TransferFailed."""
        if self._path is None:
            self._file = self._given
            return
        direct = self._path.exists() and not self._path.is_file()  # a pipe, or /dev/stdout
        if not direct:
            self._part = self._path.with_name(f".{self._path.name}.{os.urandom(4).hex()}.part")
        with self._explained():
            self._file = open(self._part or self._path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Write text. Raises: TransferFailed."""
        with self._explained():
            self._file.write(text)

    def close(self, *, whole: bool) -> None:
        """Close what was opened here; what is not whole leaves no file. Raises: TransferFailed."""
        file, self._file = self._file, None
        if self._path is None or file is None:
            return
        with self._explained():
            try:
                if whole and self._part is not None:
                    file.flush()
                    os.fsync(file.fileno())  # a power cut must not leave an empty file under its name
                file.close()
                if whole and self._part is not None:
                    os.replace(self._part, self._path)
            finally:
                if self._part is not None:
                    self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a ValueError: closed, or a name with NUL
            raise TransferFailed(
                self.name, f"cannot be written ({getattr(error, 'strerror', None) or error})"
            ) from None
        except TypeError:
            raise TransferFailed(self.name, "is not open as a text file: open it without b in its mode") from None


class Writer:
    """One export. `conversation` is run in a reading transaction, once for each."""

    def __init__(self, to: str | Path | TextIO, form: ExportFormat) -> None:
        if form not in FORMS:
            raise SettingsError("format", f"must be one of {', '.join(FORMS)}, not {form!r}")
        self._out = Out(to)
        self._lossless = form == "jsonl"
        self._pieces = FORMS[form]
        self._digest = hashlib.sha256()
        self._lines = 0
        self._conversations = 0
        self._messages = 0
        self.progress: Callable[[int], None] = lambda done: None

    def begin(self, database_id: UUID, tenant: str, at: int) -> None:
        """Open the file and write its head. Raises: TransferFailed."""
        self._out.open()
        if self._lossless:
            head = {"version": jsonl.VERSION, "database": str(database_id), "tenant": tenant, "created_at": at}
            self._write(jsonl.line("convokit", head))

    def conversation(self, connection: Connection, tenant: str, conversation_id: UUID) -> bool:
        """Write one conversation; False when there is none of that id."""
        row = conversations.find(connection, tenant, conversation_id)
        if row is None:
            return False
        wrote = False
        for text in self._pieces(connection, row, self._count):
            self._write(text)
            wrote = True
        self._conversations += wrote
        return True

    def end(self) -> Exported:
        """Write the foot, put the file in its place, and return what was written. Raises: TransferFailed."""
        digest, counted = self._digest.hexdigest(), {"conversations": self._conversations, "messages": self._messages}
        if self._lossless:
            self._write(jsonl.line("footer", {**counted, "lines": self._lines, "sha256": digest}))
        self._out.close(whole=True)
        return Exported(**counted, lines=self._lines, sha256=digest)

    def abandon(self) -> None:
        """Leave nothing of it behind, as far as the file is ours."""
        with contextlib.suppress(TransferFailed):
            self._out.close(whole=False)

    def _count(self, messages: int) -> None:
        self._messages += messages
        self.progress(self._messages)

    def _write(self, text: str) -> None:
        self._digest.update(text.encode("utf-8"))
        self._lines += text.count("\n")
        self._out.write(text)


def _rows(connection: Connection, row: ConversationRow, count: Callable[[int], None]) -> Iterator[str]:
    """Yield a conversation with everything below it, and the digest of that."""
    digest, written = hashlib.sha256(), 0
    for text in _tables(connection, row, count):
        digest.update(text.encode("utf-8"))
        written += text.count("\n")
        yield text
    yield jsonl.line("end", {"lines": written, "sha256": digest.hexdigest()})


def _tables(connection: Connection, row: ConversationRow, count: Callable[[int], None]) -> Iterator[str]:
    known: dict[str, None] = {}
    yield jsonl.of_conversation(row)
    for name in sql.CHILDREN:
        for page in sql.pages(connection, row.id, name):
            if name == "completion":
                place = sql.columns(name).index("manifest")
                yield from _prompts(connection, row.tenant, [each[place] for each in page], known)
            yield "".join(jsonl.encoded(name, each) for each in page)
            if name == "message":
                count(len(page))


def _prompts(connection: Connection, tenant: str, manifests: list[str], known: dict[str, None]) -> Iterator[str]:
    """Yield the lines of the prompts and tool sets that API calls refer to, each before the first call that does."""
    for manifest in manifests:
        values = json.loads(manifest)
        for digest in (values.get("prompt"), values.get("tools")):
            if digest is None or digest in known:
                continue
            known[digest] = None
            if len(known) > _REMEMBERED:
                del known[next(iter(known))]
            body = blobs.find_prompt(connection, tenant, bytes.fromhex(digest))
            if body is not None:
                yield jsonl.line("prompt", {"digest": digest, "body": body})


FORMS: dict[str, Callable[[Connection, ConversationRow, Callable[[int], None]], Iterator[str]]] = {
    "jsonl": _rows,
    "openai": format_text.training,
    "markdown": format_text.markdown,
}
