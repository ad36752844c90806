"""Find removed text outside of its rows.

SQLite overwrites deleted content in its file (`PRAGMA secure_delete`). The write-ahead log still contains older pages, until a
checkpoint copies it into the file and truncates it. A reader of an older state blocks the truncation.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, LargeBinary, Text, bindparam, cast, delete, func, or_, select, tuple_

from convokit.domain.content import find_blob_digests
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.store import blobs, messages
from convokit.store.dialects import dialect_of
from convokit.store.schema import completion, conversation, metadata, prompt

MAX_SAMPLES = 32
_SAMPLE_BYTES = 48
_SAMPLE_BLOB_BYTES = 64
# A shorter text may occur elsewhere by chance. The random salt of its row is searched for in any case.
_MIN_SAMPLE_BYTES = 12
# Messages at each end of a conversation, and binaries of a message, that samples are taken from.
_SAMPLED_ROWS = 4
# Measured: a fifth of the time of json.loads. The search may read the manifests of all requests of a tenant.
_PROMPT_REFERENCE = re.compile(r'"(?:prompt|tools)":"([0-9a-f]{32})"')
_CALLS_PER_PAGE = 1000
_CONVERSATIONS_PER_PAGE = 100
BLOCK_BYTES = 1024 * 1024
WAIT_S = 2.0
"""Seconds that a checkpoint waits for readers. The caller can erase again later."""
# Descriptors of searched database files, by device and inode. They stay open: closing any descriptor of a file drops all
# POSIX locks that the process holds on it, those of SQLite too.
# https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled
_OPEN_FILES: dict[tuple[int, int], int] = {}


def find_prompt_digests(manifests: Iterable[str]) -> set[bytes]:
    """Return the digests of the developer prompts and tool sets that manifests refer to."""
    return {bytes.fromhex(digest) for manifest in manifests for digest in _PROMPT_REFERENCE.findall(manifest)}


def find_unreferenced_prompts(
    connection: Connection, tenant: str, among: Collection[bytes] | None, ignoring: Collection[UUID] = ()
) -> set[bytes]:
    """Return the digests of the tenant's prompts that no request refers to.

    `among` limits the search to these digests. Requests of the conversations `ignoring` do not count.
    """
    query = select(prompt.c.digest).where(prompt.c.tenant == tenant)
    if among is not None:
        query = query.where(prompt.c.digest.in_(among))
    unseen = {bytes(digest) for digest in connection.execute(query).scalars()} if among is None or among else set()
    cursor = (conversation.c.updated_at, conversation.c.id)
    # The newest conversations come first: they use most of the current prompts, so the search ends early.
    pages = select(*cursor).where(conversation.c.tenant == tenant).order_by(*(column.desc() for column in cursor))
    last: Any = None
    while unseen:
        page = pages if last is None else pages.where(tuple_(*cursor) < tuple(last))
        rows = connection.execute(page.limit(_CONVERSATIONS_PER_PAGE)).all()
        if not rows:
            return unseen
        last = rows[-1]
        ids: list[Any] = [row[1] for row in rows if row[1] not in ignoring]
        for manifests in _read_manifest_pages(connection, ids):
            unseen -= find_prompt_digests(manifests)
            if not unseen:
                break
    return unseen


def _read_manifest_pages(connection: Connection, ids: Sequence[UUID]) -> Iterator[list[str]]:
    key = (completion.c.conversation_id, completion.c.turn_id, completion.c.number)
    query = select(completion.c.manifest, *key).where(completion.c.conversation_id.in_(ids)).order_by(*key)
    query = page = query.limit(_CALLS_PER_PAGE)
    while ids and (rows := connection.execute(page).all()):
        yield [row[0] for row in rows]
        if len(rows) < _CALLS_PER_PAGE:
            return
        page = query.where(tuple_(*key) > tuple(rows[-1][1:]))


def delete_unreferenced_prompts(connection: Connection, tenant: str, among: Collection[bytes]) -> int:
    """Delete those of the prompts `among` that no request refers to. Return how many.

    Call it in a transaction of its own, because it locks a table on PostgreSQL.
    """
    # A starting turn writes its call first and its prompt afterwards. The lock makes it wait in between, so that it sees the
    # deletion and stores the prompt again. SQLite has only one writer.
    dialect_of(connection).lock_prompts(connection)
    unreferenced = find_unreferenced_prompts(connection, tenant, among)
    if not unreferenced:
        return 0
    keys = (prompt.c.tenant == tenant, prompt.c.digest.in_(unreferenced))
    return int(connection.execute(delete(prompt).where(*keys)).rowcount)


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


def is_text_in_other_row(connection: Connection, sample: bytes) -> bool:
    """Return whether a row of any table contains the sample. SQLite only."""
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
