"""Checkpoints: the heads of a tenant's conversations, signed, to be kept where nobody who can write the database can write.

A chain shows what was altered inside it. It cannot show that its end was cut off, or that all of it was made anew: for that its
head must be known from elsewhere. A checkpoint is JSON, a line each: one that says what it is, one for each conversation in the
order of their ids, and one with the HMAC-SHA256 of all bytes before it. It is written and read by lines, however long it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

from convokit.domain.verification import Checkpoint, CheckpointHead
from convokit.errors import CheckpointError, SettingsError

FORMAT = "checkpoint.1"
MIN_KEY_BYTES = 16
PAGE = 1000
_LONGEST_LINE = 16 * 1024
"""A tenant's name is the longest thing in one."""
Source = Checkpoint | str | Path


def checked_key(key: object) -> bytes:
    """Return a signing key as bytes. Raises: SettingsError, which does not show it."""
    if not isinstance(key, str | bytes):
        raise SettingsError("key", f"must be text or bytes, the secret of the checkpoint, not {type(key).__name__}")
    try:
        data = key.encode("utf-8") if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise SettingsError("key", "holds a lone surrogate") from None
    if len(data) < MIN_KEY_BYTES:
        raise SettingsError("key", f"has {len(data)} bytes; a secret of {MIN_KEY_BYTES} or more cannot be guessed")
    return data


class Signing:
    """A checkpoint being written: to the file `to` (its place is taken only when it is whole), to an open text file, or into
    memory. Raises: SettingsError."""

    def __init__(self, key: object, to: str | Path | IO[str] | None) -> None:
        self._mac = hmac.new(checked_key(key), digestmod=hashlib.sha256)
        self._path = Path(to) if isinstance(to, str | Path) else None
        self._beside: Path | None = None
        self._file: IO[str] = io.StringIO() if self._path is not None or to is None else to  # type: ignore[assignment]
        self._about: dict[str, Any] = {}
        self.conversations = self.entries = 0

    def begin(self, database_id: UUID, tenant: str) -> None:
        """Write the first line. Raises: CheckpointError when the file cannot be written."""
        now = datetime.now(UTC)
        self._about = {"database_id": database_id, "tenant": tenant, "created_at": now}
        if self._path is not None:
            self._beside = self._path.with_name(f".{self._path.name}.{uuid4().hex[:8]}")
            with self._writing():
                self._file = self._beside.open("w", encoding="utf-8", newline="\n")
        created_at = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        head = {"convokit": FORMAT, "database": str(database_id), "tenant": tenant, "created_at": created_at}
        self._line(head, signed=True)

    def add(self, heads: Sequence[CheckpointHead]) -> None:
        """Write heads, which come in the order of their ids."""
        for each in heads:
            line = {"conversation": str(each.conversation_id), "entries": each.entries, "head": each.head}
            self._line(line, signed=True)
            self.conversations, self.entries = self.conversations + 1, self.entries + each.entries

    def finish(self) -> Checkpoint:
        """Sign it, put it into its place and return what it is."""
        signature = self._mac.hexdigest()
        self._line({"conversations": self.conversations, "hmac_sha256": signature}, signed=False)
        text = self._file.getvalue() if isinstance(self._file, io.StringIO) and self._path is None else None
        if self._path is not None and self._beside is not None:
            with self._writing():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._beside.replace(self._path)
            self._beside = None
        return Checkpoint(
            **self._about,
            conversations=self.conversations,
            entries=self.entries,
            signature=signature,
            path=None if self._path is None else str(self._path),
            text=text,
        )

    def close(self) -> None:
        """Leave no half of a file behind."""
        if self._beside is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._beside.unlink()

    def _line(self, values: dict[str, Any], *, signed: bool) -> None:
        line = json.dumps(values, separators=(",", ":")) + "\n"  # ASCII: a terminal may know no more
        if signed:
            self._mac.update(line.encode("utf-8"))
        with self._writing():
            self._file.write(line)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = str(self._path) if self._path is not None else "the checkpoint"
            raise CheckpointError(name, f"cannot be written ({error.strerror or error})", "file") from None


class Known:
    """A checkpoint that a history is held against. Raises: SettingsError for a key that is none."""

    def __init__(self, against: Source, key: object) -> None:
        if not isinstance(against, Checkpoint | str | Path):
            raise SettingsError("against", f"must be a Checkpoint or a file's path, not {type(against).__name__}")
        if key is None:
            raise SettingsError("key", "is needed to check the checkpoint's signature")
        self._key = checked_key(key)
        self._against = against
        self._name = str(against.path or "the checkpoint") if isinstance(against, Checkpoint) else str(against)
        self._heads: Iterator[CheckpointHead] | None = None
        self.created_at = ""

    def find(self, database_id: UUID, tenant: str, conversation_id: UUID | None) -> CheckpointHead | None:
        """Return what it knows of a conversation, after checking all of it: signature, database and tenant.

        Raises: CheckpointError.
        """
        wanted = "" if conversation_id is None else str(conversation_id)
        found = None
        for each in self._read(database_id, tenant, wanted):
            if each.conversation_id == conversation_id:
                found = each
        return found

    def more(self, database_id: UUID, tenant: str) -> list[CheckpointHead]:
        """Return the next heads, at most 1,000 of them; none at the end. Raises: CheckpointError."""
        if self._heads is None:
            self._heads = self._read(database_id, tenant, None)
        heads = self._heads
        return [each for _, each in zip(range(PAGE), heads, strict=False)]

    def _read(self, database_id: UUID, tenant: str, wanted: str | None) -> Iterator[CheckpointHead]:
        """Yield the heads (of one conversation, if one is wanted), then check the signature and whose they are."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        about: dict[str, Any] = {}
        before, count = b"", 0
        only = None if wanted is None else wanted.encode()
        for line in self._lines():
            if before:
                mac.update(before)
                if not about:
                    about = self._about(before)
                else:
                    count += 1
                    if only is None or (only and only in before):
                        yield self._head(before)
            before = line
        self._check_signature(before, mac.hexdigest(), count)
        for name, told, here in (
            ("database", about.get("database"), str(database_id)),
            ("tenant", about.get("tenant"), tenant),
        ):
            if told != here:
                raise CheckpointError(self._name, f"was made of another {name}: {told!r}, this one is {here!r}", name)

    def _lines(self) -> Iterator[bytes]:
        text = self._against.text if isinstance(self._against, Checkpoint) else None
        if text is not None:
            yield from io.BytesIO(text.encode("utf-8"))
            return
        path = self._against.path if isinstance(self._against, Checkpoint) else self._against
        if path is None:
            raise CheckpointError(self._name, "was written to a file that it does not name: give the file", "file")
        try:
            with Path(path).expanduser().open("rb") as file:
                while line := file.readline(_LONGEST_LINE):
                    yield line
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise CheckpointError(self._name, f"cannot be read ({said})", "file") from None

    def _about(self, line: bytes) -> dict[str, Any]:
        """Return what the first line says."""
        try:
            about = json.loads(line)
            known = about["convokit"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(self._name, "is not a checkpoint", "format") from None
        if known != FORMAT:
            raise CheckpointError(
                self._name, f"is of a form that this version does not read: {str(known)[:40]!r}", "format"
            )
        self.created_at = str(about.get("created_at"))
        return dict(about)

    def _head(self, line: bytes) -> CheckpointHead:
        try:
            told = json.loads(line)
            return CheckpointHead(UUID(told["conversation"]), int(told["entries"]), str(told["head"]), self.created_at)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CheckpointError(
                self._name, "holds a line that is no conversation's head: it was altered", "signature"
            ) from None

    def _check_signature(self, line: bytes, computed: str, count: int) -> None:
        try:
            told = json.loads(line)
            signature, counted = told["hmac_sha256"], told["conversations"]
        except (ValueError, KeyError, TypeError, RecursionError):
            problem = "is cut off: its last line is not a signature" if line else "is empty"
            if line and not self.created_at:
                problem = "is not a checkpoint"
            raise CheckpointError(self._name, problem, "format") from None
        if not hmac.compare_digest(str(signature).encode(), computed.encode()) or counted != count:
            problem = "its signature does not match: it was altered, or signed with another key"
            raise CheckpointError(self._name, problem, "signature")


def known(against: Source | None, key: object) -> Known | None:
    """Return the checkpoint that was given, if one was. Raises: SettingsError."""
    if against is None:
        if key is not None:
            raise SettingsError("key", "signs checkpoints: give one with against=")
        return None
    return Known(against, key)
