"""Imports of random and damaged files: no file raises anything but the typed error, and what comes in can be continued."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Convokit
from convokit.errors import TransferFailed
from convokit.transfer.formats import EXPORT_FORMATS
from tests.support.chatgpt import conversation
from tests.support.databases import Files
from tests.support.selection import examples

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["a\x00", "\ud800", "user", "assistant", "tool", "blob:" + "0" * 64, "blob:x", "complete", "9" * 30]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "text", "keys", "audio", "url", "role", "content"]), inner, max_size=3
        ),
    ),
    max_leaves=5,
)
PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES = {
    "key": "k",
    "metadata": {"a": 1},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "created_at": "2024-05-01T00:00:00Z",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": ["look", PART], "created_at": 1_714_521_600},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "x"}]},
    ],
}
CLAUDE = {
    "uuid": "u",
    "name": "題",
    "created_at": "2024-05-01T00:00:00.123456Z",
    "chat_messages": [
        {"uuid": "1", "sender": "human", "text": "hi", "attachments": [{"file_name": "a", "extracted_content": "x"}]},
        {
            "uuid": "2",
            "sender": "assistant",
            "parent_message_uuid": "1",
            "content": [{"type": "text", "text": "hello"}],
        },
    ],
}
OPEN_WEBUI = {
    "id": "u",
    "chat": {
        "title": "題",
        "history": {
            "currentId": "2",
            "messages": {
                "1": {
                    "parentId": None,
                    "childrenIds": ["2"],
                    "role": "user",
                    "content": "hi",
                    "files": [{"type": "image"}],
                },
                "2": {
                    "parentId": "1",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "hello",
                    "timestamp": 1714521600,
                },
            },
        },
    },
}
RECORDS: dict[str, Any] = {
    "chatgpt": conversation(),
    "claude": CLAUDE,
    "openwebui": OPEN_WEBUI,
    "messages": MESSAGES,
    "openai": MESSAGES,
}


@pytest.fixture(scope="module")
def lines(files: Files) -> list[str]:
    """The lines of an export with every kind of row that an import without a model server can make."""
    with Convokit(files.migrated(), model="m", base_url="http://127.0.0.1:9/v1") as kit:
        kit.import_(io.StringIO(json.dumps(MESSAGES)), format="messages", key="k", trusted=True)
        chat = kit.chat("k")
        chat.fork(2, name="beside")
        chat.pin(1)
        chat.redact(4)
        out = io.StringIO()
        kit.export(out)
    return out.getvalue().splitlines()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each value below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def spoil(data: st.DataObject, value: Any) -> Any:
    """Return a copy of a JSON value with one or two values replaced or removed."""
    copy = json.loads(json.dumps(value))
    for _ in range(data.draw(st.integers(1, 2))):
        found = sorted(paths(copy), key=str)
        if not found:
            break
        *way, last = data.draw(st.sampled_from(found))
        inner = copy
        for key in way:
            inner = inner[key]
        if isinstance(inner, dict) and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from([last, "extra", "type"]))] = data.draw(VALUES)
        elif data.draw(st.booleans()):
            inner[last] = data.draw(VALUES)
        else:
            del inner[last]
    return copy


def import_text(files: Files, text: str, **options: Any) -> None:
    """Import a text into a database with the id of the export. Verify, continue and export what was imported."""
    with Convokit(files.migrated(), model="m", base_url="http://127.0.0.1:9/v1") as kit:
        file = io.BytesIO(text.encode("utf-8", "surrogatepass"))
        rehearsed = kit.import_(file, on_error="skip", dry_run=True, **options)
        assert not list(kit.conversations())
        found = kit.import_(io.StringIO(text), on_error="skip", **options)
        assert rehearsed.conversations == found.conversations
        for each in kit.conversations():
            chat = kit.chat(id=each.id)
            chat.verify()
            chat.context("go on")
            for form in EXPORT_FORMATS:
                kit.export(io.StringIO(), format=form, conversations=[each.id])


@pytest.mark.once
@pytest.mark.parametrize("form", RECORDS)
@examples(cost=4)
@given(data=st.data())
def test_a_spoiled_record_raises_only_the_typed_error(files: Files, form: Any, data: st.DataObject) -> None:
    value = spoil(data, RECORDS[form])
    text = json.dumps([value], indent=data.draw(st.sampled_from([None, 1])))
    import_text(
        files, text, format=form, trusted=data.draw(st.booleans()), prefix=data.draw(st.sampled_from([None, "p"]))
    )


@pytest.mark.once
@examples(cost=4)
@given(data=st.data())
def test_a_spoiled_export_raises_only_the_typed_error(files: Files, lines: list[str], data: st.DataObject) -> None:
    """The digests of the file are made to fit again: what somebody does who knows the form."""
    records = [json.loads(line) for line in lines]
    number = data.draw(st.integers(1, len(records) - 2))
    ((name, row),) = records[number].items()
    column = data.draw(st.sampled_from(sorted(row)))
    inner = row[column]
    if isinstance(inner, str) and inner[:1] in ("{", "[") and data.draw(st.booleans()):
        parsed = json.loads(inner)
        row[column] = json.dumps(spoil(data, parsed)) if parsed else "[[]]"
    elif data.draw(st.booleans()):
        row[data.draw(st.sampled_from([column, "extra", "parts", "tool_calls"]))] = data.draw(
            st.one_of(VALUES, VALUES.map(json.dumps))
        )
    else:
        del row[column]
    records[number] = {name: row}
    import_text(files, reseal(records), trusted=data.draw(st.booleans()), prefix=None)


def reseal(records: list[Any]) -> str:
    """Return the lines of an export with digests that fit."""
    made: list[str] = []
    own: list[str] = []
    for given_record in records:
        record, kind = given_record, next(iter(given_record))
        if kind == "end":
            record = {"end": {"lines": len(own), "sha256": digest(own)}}
        elif kind == "footer":
            record = {"footer": {**record["footer"], "sha256": digest(made)}}
        line = json.dumps(record) + "\n"
        own = [line] if kind == "conversation" else [*own, line]
        made.append(line)
    return "".join(made)


def digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.once
@examples(cost=4)
@given(
    form=st.sampled_from(["jsonl", *RECORDS]),
    value=st.one_of(VALUES.map(json.dumps), st.text(max_size=20), st.text(alphabet='[]{}",:1 \n', max_size=30)),
    trusted=st.booleans(),
)
def test_a_random_file_raises_only_the_typed_error(files: Files, form: Any, value: str, *, trusted: bool) -> None:
    with contextlib.suppress(TransferFailed):
        import_text(files, value, format=form, trusted=trusted, prefix=None)


@pytest.mark.once
@examples(cost=4)
@given(data=st.data())
def test_a_damaged_archive_raises_only_the_typed_error(files: Files, data: st.DataObject) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        archive.writestr("conversations.json", json.dumps([conversation()]))
        archive.writestr("file-Ab3dEf7hIj-cat.png", b"x" * 100)
    damaged = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        with Convokit(files.migrated(), model="m") as kit:
            kit.import_(io.BytesIO(damaged), format="chatgpt", on_error="skip")
    except TransferFailed:
        pass
