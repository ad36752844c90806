"""Write and read checkpoints: signed lists of chain heads and branch heads.

A hash chain shows every change inside it. It cannot show that its end was cut off, or that all of it was written again.
A copy of the last hash, kept where nobody who can write the database can write, shows that too.

A hash chain does not commit to the branch heads either, because heads move lawfully. A checkpoint has them too.

A checkpoint is a file of JSON lines. The first line describes the checkpoint. The next lines hold one conversation each,
in the order of the ids. The last line holds the HMAC-SHA256 of all bytes before it.
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
from itertools import islice
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

from convokit._files import open_replacement
from convokit.domain.verification import Checkpoint, CheckpointHead
from convokit.errors import CheckpointError, SettingsError

FORMAT = "checkpoint.1"
MIN_KEY_BYTES = 16
PAGE = 1000
_MAX_LINE_BYTES = 32 * 1024 * 1024  # the heads of a million branches
CheckpointSource = Checkpoint | str | Path


def validate_key(key: object) -> bytes:
    """Return a signing key as bytes. Raises: SettingsError, whose message does not contain the key."""
    if not isinstance(key, str | bytes):
        raise SettingsError("key", f"must be text or bytes, not {type(key).__name__}")
    try:
        data = key.encode("utf-8") if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise SettingsError("key", "contains a lone surrogate") from None
    if len(data) < MIN_KEY_BYTES:
        raise SettingsError("key", f"has {len(data)} bytes; use a random secret of at least {MIN_KEY_BYTES} bytes")
    return data


class CheckpointWriter:
    """Writes a checkpoint to a path, to an open text file, or into memory (`to=None`). Raises: SettingsError.

    A path gets the file only when the checkpoint is complete. Call `start`, `add` for each page of heads, `finish`; call
    `close` in any case.
    """

    def __init__(self, key: object, to: str | Path | IO[str] | None) -> None:
        self._mac = hmac.new(validate_key(key), digestmod=hashlib.sha256)
        self._path = Path(to) if isinstance(to, str | Path) else None
        self._temporary_path: Path | None = None
        self._file: IO[str] = io.StringIO() if self._path is not None or to is None else to  # type: ignore[assignment]
        self._description: dict[str, Any] = {}
        self.conversations = self.entries = 0

    def start(self, database_id: UUID, tenant: str) -> None:
        """Write the first line. Raises: CheckpointError when the file cannot be written."""
        now = datetime.now(UTC)
        self._description = {"database_id": database_id, "tenant": tenant, "created_at": now}
        if self._path is not None:
            # In the same folder: a rename across file systems would not be atomic.
            self._temporary_path = self._path.with_name(f".{self._path.name}.{uuid4().hex[:8]}")
            with self._writing():
                self._file = open_replacement(self._temporary_path, self._path)
        created_at = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        values = {"convokit": FORMAT, "database": str(database_id), "tenant": tenant, "created_at": created_at}
        self._write_line(values, signed=True)

    def add(self, heads: Sequence[CheckpointHead]) -> None:
        """Write heads. Call it in the order of the conversations' ids."""
        for each in heads:
            values = {
                "conversation": str(each.conversation_id),
                "entries": each.entries,
                "head": each.head,
                "branch_heads": each.branch_heads,
            }
            self._write_line(values, signed=True)
            self.conversations, self.entries = self.conversations + 1, self.entries + each.entries

    def finish(self) -> Checkpoint:
        """Write the signature, and move the file to its path."""
        signature = self._mac.hexdigest()
        self._write_line({"conversations": self.conversations, "hmac_sha256": signature}, signed=False)
        text = self._file.getvalue() if isinstance(self._file, io.StringIO) and self._path is None else None
        if self._path is not None and self._temporary_path is not None:
            with self._writing():
                # Without fsync, a power failure after the rename could leave an empty file at the path.
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary_path.replace(self._path)
            self._temporary_path = None
        return Checkpoint(
            **self._description,
            conversations=self.conversations,
            entries=self.entries,
            signature=signature,
            path=None if self._path is None else str(self._path),
            text=text,
        )

    def close(self) -> None:
        """Delete an unfinished file."""
        if self._temporary_path is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._temporary_path.unlink()

    def _write_line(self, values: dict[str, Any], *, signed: bool) -> None:
        line = json.dumps(values, separators=(",", ":")) + "\n"  # ASCII: stdout may have any encoding
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


class CheckpointReader:
    """Reads a checkpoint that histories are compared with. Raises: SettingsError for an invalid key or source."""

    def __init__(self, against: CheckpointSource, key: object) -> None:
        if not isinstance(against, Checkpoint | str | Path):
            raise SettingsError("against", f"must be a Checkpoint or a file's path, not {type(against).__name__}")
        if key is None:
            raise SettingsError("key", "is missing: pass the key that signed the checkpoint")
        self._key = validate_key(key)
        self._against = against
        self._name = str(against.path or "the checkpoint") if isinstance(against, Checkpoint) else str(against)
        self._heads: Iterator[CheckpointHead] | None = None
        self._created_at = ""

    def check(self, database_id: UUID, tenant: str) -> None:
        """Read all lines; check signature, database and tenant. Raises: CheckpointError."""
        for _ in self._read_checked(database_id, tenant):
            pass

    def find_head(self, database_id: UUID, tenant: str, conversation_id: UUID) -> CheckpointHead | None:
        """Return the head of one conversation, after the checks of `check`. Raises: CheckpointError."""
        found, wanted = None, str(conversation_id).encode()
        for line in self._read_checked(database_id, tenant):
            if wanted in line:  # parsing every line of a large checkpoint takes long
                head = self._parse_head(line)
                found = head if head.conversation_id == conversation_id else found
        return found

    def read_page(self, database_id: UUID, tenant: str) -> list[CheckpointHead]:
        """Return the next `PAGE` heads, an empty list at the end. Raises: CheckpointError."""
        if self._heads is None:
            self._heads = map(self._parse_head, self._read_checked(database_id, tenant))
        return list(islice(self._heads, PAGE))

    def _read_checked(self, database_id: UUID, tenant: str) -> Iterator[bytes]:
        """Yield the line of each conversation, then check signature, database and tenant."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        description: dict[str, Any] = {}
        previous, count = b"", 0
        for line in self._read_lines():
            # One line behind: only at the end of the file is it known that a line is the signature.
            if previous:
                mac.update(previous)
                if not description:
                    description = self._parse_description(previous)
                else:
                    count += 1
                    yield previous
            previous = line
        self._check_signature(previous, mac.hexdigest(), count)
        for name, expected in (("database", str(database_id)), ("tenant", tenant)):
            actual = description.get(name)
            if actual != expected:
                raise CheckpointError(self._name, f"belongs to another {name}: {actual!r}, not {expected!r}", name)

    def _read_lines(self) -> Iterator[bytes]:
        text = self._against.text if isinstance(self._against, Checkpoint) else None
        if text is not None:
            yield from io.BytesIO(text.encode("utf-8"))
            return
        path = self._against.path if isinstance(self._against, Checkpoint) else self._against
        if path is None:
            raise CheckpointError(self._name, "has neither text nor path; pass the path of its file", "file")
        try:
            with Path(path).expanduser().open("rb") as file:
                while line := file.readline(_MAX_LINE_BYTES):
                    yield line
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(self._name, f"cannot be read ({reason})", "file") from None

    def _parse_description(self, line: bytes) -> dict[str, Any]:
        try:
            description = json.loads(line)
            version = description["convokit"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(self._name, "is not a checkpoint", "format") from None
        if version != FORMAT:
            problem = f"has the format {str(version)[:40]!r}; this version of convokit reads {FORMAT!r}"
            raise CheckpointError(self._name, problem, "format")
        self._created_at = str(description.get("created_at"))
        return dict(description)

    def _parse_head(self, line: bytes) -> CheckpointHead:
        try:
            values = json.loads(line)
            conversation_id, entries = UUID(values["conversation"]), int(values["entries"])
            branch_heads = _parse_branch_heads(values.get("branch_heads"))
            return CheckpointHead(conversation_id, entries, str(values["head"]), self._created_at, branch_heads)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            problem = "was altered: a line is not the head of a conversation"
            raise CheckpointError(self._name, problem, "signature") from None

    def _check_signature(self, line: bytes, computed: str, count: int) -> None:
        try:
            values = json.loads(line)
            signature, conversations = values["hmac_sha256"], values["conversations"]
        except (ValueError, KeyError, TypeError, RecursionError):
            problem = "is cut off: its last line is not a signature" if line else "is empty"
            if line and not self._created_at:
                problem = "is not a checkpoint"
            raise CheckpointError(self._name, problem, "format") from None
        # The count is in the last line, which is not signed.
        if not hmac.compare_digest(str(signature).encode(), computed.encode()) or conversations != count:
            problem = "its signature does not match: it was altered, or signed with another key"
            raise CheckpointError(self._name, problem, "signature")


def _parse_branch_heads(values: dict[str, int | None] | None) -> dict[int, int | None] | None:
    """Return the head of each branch. Checkpoints of earlier versions have none."""
    if values is None:
        return None
    return {int(number): None if seq is None else int(seq) for number, seq in values.items()}


def open_checkpoint(against: CheckpointSource | None, key: object) -> CheckpointReader | None:
    """Return a reader, or None when no checkpoint was given. Raises: SettingsError."""
    if against is None:
        if key is not None:
            raise SettingsError("key", "belongs to a checkpoint: pass the checkpoint as `against`")
        return None
    return CheckpointReader(against, key)
