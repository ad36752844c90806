"""Delete unused prompts, and find removed text outside of its rows.

SQLite overwrites deleted content in its file (`PRAGMA secure_delete`). The write-ahead log still contains older pages, until a
checkpoint copies it into the file and truncates it. A reader of an older state blocks the truncation.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, LargeBinary, Text, bindparam, cast, delete, func, literal, or_, select

from convokit.domain.content import find_blob_digests
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.store import blobs, messages
from convokit.store.dialects import dialect_of
from convokit.store.schema import conversation, metadata, prompt, prompt_use

MAX_SAMPLES = 32
_SAMPLE_BYTES = 48
_SAMPLE_BLOB_BYTES = 64
# A shorter text may occur elsewhere by chance. The random salt of its row is searched for in any case.
_MIN_SAMPLE_BYTES = 12
# Messages at each end of a conversation, and binaries of a message, that samples are taken from.
_SAMPLED_ROWS = 4
_PROMPTS_PER_PAGE = 500
# One statement for each prompt, because Citus correlates no reference table with a distributed one. A use has no tenant, and
# prompts of different tenants may have the same digest.
_USES = (
    select(literal(1).label("one"))
    .select_from(prompt_use)
    .join(conversation, conversation.c.id == prompt_use.c.conversation_id)
    .where(prompt_use.c.digest == bindparam("digest"), conversation.c.tenant == bindparam("tenant"))
    .limit(bindparam("limit"))
)
_COUNT_USES = select(func.count()).select_from(_USES.subquery())
BLOCK_BYTES = 1024 * 1024
WAIT_S = 2.0
"""Seconds that a checkpoint waits for readers. The caller can erase again later."""
# Descriptors of searched database files, by device and inode. They stay open: closing any descriptor of a file drops all
# POSIX locks that the process holds on it, those of SQLite too.
# https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled
_OPEN_FILES: dict[tuple[int, int], int] = {}


def count_unused_prompts(
    connection: Connection, tenant: str, among: Collection[bytes] | None, released: Mapping[bytes, int]
) -> int:
    """Return how many of the prompts `among` (None: of all of the tenant) no conversation uses.

    `released` is the number of conversations, by digest, whose use does not count because they are about to be erased.
    """
    pages = _read_prompt_pages(connection, tenant, among)
    return sum(len(_find_unused(connection, tenant, page, released)) for page in pages)


def delete_unused_prompts(connection: Connection, tenant: str, among: Collection[bytes] | None) -> int:
    """Delete those of the prompts `among` (None: of all of the tenant) that no conversation uses. Return how many."""
    count = 0
    for page in _read_prompt_pages(connection, tenant, among):
        if unused := _find_unused(connection, tenant, page):
            # A starting turn locks the prompt and then inserts its use. A statement does not see what was committed while it
            # waited for a lock, so a second statement asks again.
            keys = (prompt.c.tenant == tenant, prompt.c.digest.in_(unused))
            locked = select(prompt.c.digest).where(*keys).order_by(prompt.c.digest).with_for_update()
            still_unused = _find_unused(connection, tenant, connection.execute(locked).scalars().all())
            gone = delete(prompt).where(prompt.c.tenant == tenant, prompt.c.digest.in_(still_unused))
            count += int(connection.execute(gone).rowcount)
    return count


def _read_prompt_pages(
    connection: Connection, tenant: str, among: Collection[bytes] | None
) -> Iterator[Sequence[bytes]]:
    """Yield the digests of stored prompts in order."""
    of_tenant = select(prompt.c.digest).where(prompt.c.tenant == tenant).order_by(prompt.c.digest)
    if among is not None:
        digests = sorted(among)
        for first in range(0, len(digests), _PROMPTS_PER_PAGE):
            of_page = of_tenant.where(prompt.c.digest.in_(digests[first : first + _PROMPTS_PER_PAGE]))
            yield connection.execute(of_page).scalars().all()
        return
    page = of_tenant.limit(_PROMPTS_PER_PAGE)
    while found := connection.execute(page).scalars().all():
        yield found
        page = of_tenant.where(prompt.c.digest > found[-1]).limit(_PROMPTS_PER_PAGE)


def _find_unused(
    connection: Connection, tenant: str, digests: Iterable[bytes], released: Mapping[bytes, int] | None = None
) -> list[bytes]:
    unused = []
    for digest in map(bytes, digests):
        ignored = (released or {}).get(digest, 0)
        # One row more than those that do not count settles it: a prompt may have millions of uses.
        values = {"tenant": tenant, "digest": digest, "limit": ignored + 1}
        if connection.execute(_COUNT_USES, values).scalar_one() <= ignored:
            unused.append(digest)
    return unused


def sample_messages(
    connection: Connection, conversation: ConversationRow, rows: Sequence[MessageRow], digests: Sequence[bytes]
) -> list[bytes]:
    """Return samples of messages and of the binaries `digests`."""
    texts = [text for row in rows for text in (row.content, row.refusal, row.name, row.kind) if text]
    documents = [document for row in rows for document in (row.parts, row.tool_calls, row.extra, row.item) if document]
    salts = [bytes(row.salt) for row in rows if row.salt is not None]
    stored = blobs.read_blobs(connection, conversation.id, digests[:_SAMPLED_ROWS]) if digests else {}
    blob_starts = [blob.data[:_SAMPLE_BLOB_BYTES] for blob in stored.values() if len(blob.data) >= _SAMPLE_BLOB_BYTES]
    return make_samples(texts=texts, documents=documents, binaries=[*salts, *blob_starts])[:MAX_SAMPLES]


def sample_conversation(connection: Connection, conversation: ConversationRow) -> list[bytes]:
    """Return samples of a conversation's description and of its first and last messages."""
    last = conversation.last_seq
    seqs = {*range(1, _SAMPLED_ROWS + 1), *range(last - _SAMPLED_ROWS + 1, last + 1)}
    rows = messages.read_many(connection, conversation.id, sorted(seqs), with_items=True)
    samples = make_samples(
        texts=[text for text in (conversation.subject, conversation.title) if text],
        documents=[document for document in (conversation.metadata, conversation.settings) if document],
        binaries=[],
    )[: MAX_SAMPLES // 4]
    for row in rows:
        of_row = sample_messages(connection, conversation, [row], collect_blob_digests([row]))
        samples += of_row[: MAX_SAMPLES // len(rows)]
    return samples[:MAX_SAMPLES]


def collect_blob_digests(rows: Iterable[MessageRow]) -> list[bytes]:
    """Return the digests of the binaries that messages refer to, without duplicates."""
    documents = [document for row in rows for document in (row.parts, row.extra) if document is not None]
    return list(dict.fromkeys(digest for document in documents for digest in find_blob_digests(document)))


def make_samples(*, texts: Iterable[str], documents: Iterable[str], binaries: Iterable[bytes]) -> list[bytes]:
    """Return the start, middle and end of each text, as UTF-8 and as JSON escapes it, and all `binaries`.

    `documents` are JSON. The texts in them are sampled.
    """
    samples = dict.fromkeys(binaries)
    for text in [*texts, *(text for document in documents for text in _find_texts(json.loads(document)))]:
        for form in dict.fromkeys((text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])):
            encoded = form.encode("utf-8", "surrogatepass")  # a JSON escape may stand for a lone surrogate
            middle = max((len(encoded) - _SAMPLE_BYTES) // 2, 0)
            for sample in (
                encoded[:_SAMPLE_BYTES],
                encoded[middle : middle + _SAMPLE_BYTES],
                encoded[-_SAMPLE_BYTES:],
            ):
                if len(sample) >= _MIN_SAMPLE_BYTES:
                    samples[sample] = None
    return list(samples)


def _find_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_texts(item)


def are_in_other_rows(connection: Connection, samples: Iterable[bytes]) -> bool:
    """Return whether rows of any tables contain all samples. SQLite only."""
    return all(_is_in_a_row(connection, sample) for sample in samples)


def _is_in_a_row(connection: Connection, sample: bytes) -> bool:
    for table in metadata.tables.values():
        columns = [column for column in table.columns if isinstance(column.type, Text | LargeBinary)]
        needle = bindparam("sample", type_=LargeBinary)
        matches = [func.instr(cast(column, LargeBinary), needle) > 0 for column in columns]
        if not matches:
            continue
        if connection.execute(select(1).where(or_(*matches)).limit(1), {"sample": sample}).first() is not None:
            return True
    return False


def find_database_file(connection: Connection) -> str | None:
    """Return the path of a SQLite database, None for a server."""
    return dialect_of(connection).file_of(connection)


def truncate_and_search(path: str, samples: Sequence[bytes]) -> list[bytes] | None:
    """Truncate the write-ahead log and return the samples that the database file still contains.

    None: a reader of an older state blocks the truncation. Raises: sqlite3.Error, OSError.
    """
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
        is_blocked, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return None if is_blocked else search_files(path, samples)


def search_files(path: str, samples: Sequence[bytes]) -> list[bytes]:
    """Return the samples that a SQLite file or its write-ahead log contains. Raises: OSError."""
    missing = list(dict.fromkeys(samples))
    found: list[bytes] = []
    longest = max(map(len, missing), default=1)
    for name in (path, f"{path}-wal"):
        with _open_blocks(name) as blocks:
            tail = b""
            for block in blocks if missing else ():
                data = tail + block
                found += [sample for sample in missing if sample in data]
                missing = [sample for sample in missing if sample not in data]
                tail = data[-longest + 1 :] if longest > 1 else b""  # a sample may cross the border of two blocks
    return found


@contextmanager
def _open_blocks(name: str) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over the blocks of a file. It is empty if there is no such file."""
    try:
        status = os.stat(name)
    except FileNotFoundError:
        yield iter(())
        return
    # SQLite takes no locks on the log, and Windows locks do not depend on other descriptors: these files can be closed.
    if name.endswith("-wal") or sys.platform == "win32":
        with open(name, "rb") as file:
            yield iter(lambda: file.read(BLOCK_BYTES), b"")
        return
    key = (status.st_dev, status.st_ino)
    if key not in _OPEN_FILES:
        _OPEN_FILES[key] = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    yield _read_blocks(_OPEN_FILES[key])


def _read_blocks(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while block := os.pread(descriptor, BLOCK_BYTES, offset):
        yield block
        offset += len(block)
