"""Take samples of text before its removal, to search the database file for them afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from convokit.domain.content import find_blob_digests
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.store import blobs, messages

MAX_SAMPLES = 32
_SAMPLE_BYTES = 48
_BLOB_BYTES = 64
# A shorter text may occur elsewhere by chance. The random salt of its row is searched for in any case.
_MIN_BYTES = 12
# Messages at each end of a conversation, and binaries of a message, that samples are taken from.
_SAMPLED_ROWS = 4


def sample_messages(
    connection: Connection, conversation: ConversationRow, rows: Sequence[MessageRow], digests: Sequence[bytes]
) -> list[bytes]:
    """Return samples of messages and of the binaries `digests`."""
    texts = [text for row in rows for text in (row.content, row.refusal, row.name) if text]
    documents = [document for row in rows for document in (row.parts, row.tool_calls, row.extra) if document]
    salts = [bytes(row.salt) for row in rows if row.salt is not None]
    stored = blobs.read_blobs(connection, conversation.id, digests[:_SAMPLED_ROWS]) if digests else {}
    blob_starts = [blob.data[:_BLOB_BYTES] for blob in stored.values() if len(blob.data) >= _BLOB_BYTES]
    return make_samples(texts=texts, documents=documents, binaries=[*salts, *blob_starts])[:MAX_SAMPLES]


def sample_conversation(connection: Connection, conversation: ConversationRow) -> list[bytes]:
    """Return samples of a conversation's description and of its first and last messages."""
    last = conversation.last_seq
    seqs = {*range(1, _SAMPLED_ROWS + 1), *range(last - _SAMPLED_ROWS + 1, last + 1)}
    rows = messages.read_many(connection, conversation.id, sorted(seqs))
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
            encoded = form.encode("utf-8")
            middle = max((len(encoded) - _SAMPLE_BYTES) // 2, 0)
            for sample in (
                encoded[:_SAMPLE_BYTES],
                encoded[middle : middle + _SAMPLE_BYTES],
                encoded[-_SAMPLE_BYTES:],
            ):
                if len(sample) >= _MIN_BYTES:
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
