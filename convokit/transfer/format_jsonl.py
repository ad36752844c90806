"""Encode and decode the lossless format, one JSON line for each row.

The first line is `{"convokit": ...}` with the format's version and the database and tenant of the export. Each conversation is
its own row, the rows below it, and an `end` line with the SHA-256 of these lines. The last line is a `footer` with the SHA-256
of all lines before it.

Keys are column names, and null values are left out. Binaries are base64, other bytes hexadecimal. JSON columns stay text,
because the hash chain covers their bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, Uuid

from convokit.domain.conversation import ConversationRow
from convokit.domain.text import validate_text
from convokit.errors import InvalidInput
from convokit.store import chain
from convokit.store.schema import conversation
from convokit.transfer import sql
from convokit.transfer.models import ExportChunk

VERSION = 1
_MAX_KNOWN_PROMPTS = 1000
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
# A running turn is exported as a takeover would leave it, because no reader of the file can continue it.
_STATES_AFTER_TAKEOVER = {
    ("turn", "state"): {"open": "abandoned"},
    ("completion", "state"): {"sending": "abandoned", "streaming": "abandoned"},
    ("tool_call", "state"): {"running": "unknown"},
}


def encode_header(database_id: UUID, tenant: str, created_at: int) -> str:
    """Return the first line of a file."""
    values = {"version": VERSION, "database": str(database_id), "tenant": tenant, "created_at": created_at}
    return _encode_line("convokit", values)


def encode_footer(conversations: int, messages: int, lines: int, sha256: str) -> str:
    """Return the last line of a file. `lines` and `sha256` cover the lines before it."""
    values = {"conversations": conversations, "messages": messages, "lines": lines, "sha256": sha256}
    return _encode_line("footer", values)


def _encode_line(kind: str, values: Mapping[str, Any]) -> str:
    return _encode_json({kind: values}) + "\n"


def export_conversation(connection: Connection, row: ConversationRow) -> Iterator[ExportChunk]:
    """Yield the lines of a conversation."""
    digest, lines = hashlib.sha256(), 0
    for text, messages in _export_tables(connection, row):
        digest.update(text.encode("utf-8"))
        lines += text.count("\n")
        yield text, messages
    yield _encode_line("end", {"lines": lines, "sha256": digest.hexdigest()}), 0


def _export_tables(connection: Connection, row: ConversationRow) -> Iterator[ExportChunk]:
    known_prompts: dict[str, None] = {}
    yield _encode_row("conversation", [getattr(row, column.name) for column in _list_columns("conversation")]), 0
    for name in sql.CHILD_TABLES:
        for page in sql.read_row_pages(connection, row.id, name):
            if name == "completion":
                manifest = sql.list_columns(name).index("manifest")
                for call in page:
                    yield from _export_prompts(connection, row.tenant, call[manifest], known_prompts)
            yield "".join(_encode_row(name, each) for each in page), len(page) if name == "message" else 0


def _export_prompts(
    connection: Connection, tenant: str, manifest: str, known: dict[str, None]
) -> Iterator[ExportChunk]:
    """Yield the prompt and the tool set of an API call, before the first call that refers to them."""
    values = json.loads(manifest)
    for digest in (values.get("prompt"), values.get("tools")):
        if digest is None or digest in known:
            continue
        known[digest] = None
        if len(known) > _MAX_KNOWN_PROMPTS:
            del known[next(iter(known))]  # a prompt that occurs twice in a file does no harm
        body = chain.find_prompt(connection, tenant, bytes.fromhex(digest))
        if body is not None:
            yield _encode_line("prompt", {"digest": digest, "body": body}), 0


@cache
def _list_columns(kind: str) -> list[Column[Any]]:
    if kind == "conversation":
        return [conversation.columns[name] for name in ConversationRow.__slots__ if name != "tenant"]
    return [sql.CHILD_TABLES[kind].columns[name] for name in sql.list_columns(kind)]


def _encode_row(kind: str, row: Sequence[Any]) -> str:
    """Return the line of a row, given as its values in the order of the columns."""
    if kind == "turn":
        row = _end_turn(row)
    return _encode_line(
        kind,
        {
            name: value if encode is None else encode(value)
            for (name, encode), value in zip(_list_encoders(kind), row, strict=True)
            if value is not None
        },
    )


def _end_turn(row: Sequence[Any]) -> Sequence[Any]:
    values = dict(zip(sql.list_columns("turn"), row, strict=True))
    if values["ended_at"] is None:
        # The time of the turn's last sign of life, so that two exports of an open turn are equal.
        values["ended_at"] = values["first_token_at"] or values["started_at"]
    return list(values.values())


@cache
def _list_encoders(kind: str) -> list[tuple[str, Callable[[Any], Any] | None]]:
    return [(column.name, _choose_encoder(kind, column)) for column in _list_columns(kind)]


def _choose_encoder(kind: str, column: Column[Any]) -> Callable[[Any], Any] | None:
    if isinstance(column.type, LargeBinary):
        return _encode_base64 if column.name == "data" else lambda value: bytes(value).hex()
    if isinstance(column.type, Uuid):
        return str
    states = _STATES_AFTER_TAKEOVER.get((kind, column.name))
    return None if states is None else lambda value: states.get(value, value)


def _encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def decode_row(kind: str, values: object) -> dict[str, Any]:
    """Return the row of a line, with all its columns. Raises: InvalidInput naming the column."""
    try:
        return dict(_make_row_model(kind).model_validate(values))
    except ValidationError as error:
        raise _explain_error(kind, error) from None


@cache
def _make_row_model(kind: str) -> type[BaseModel]:
    columns: dict[str, Any] = {
        column.name: (_choose_type(column) | None, None) if column.nullable else (_choose_type(column), ...)
        for column in _list_columns(kind)
    }
    return create_model(kind, __config__=ConfigDict(extra="forbid"), **columns)


def _choose_type(column: Column[Any]) -> Any:
    if isinstance(column.type, Integer):
        bits = 63 if isinstance(column.type, BigInteger) else 31
        return Annotated[int, Field(strict=True, ge=-(2**bits), lt=2**bits)]
    if isinstance(column.type, Uuid):
        return UUID
    if isinstance(column.type, LargeBinary):
        decode = _decode_base64 if column.name == "data" else bytes.fromhex
        return Annotated[str, Field(strict=True), AfterValidator(decode)]
    # PostgreSQL stores no NUL. Pydantic itself rejects lone surrogates.
    return Annotated[str, Field(strict=True, pattern=r"^[^\x00]*$")]


def _decode_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _explain_error(kind: str, error: ValidationError) -> InvalidInput:
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:
        return InvalidInput(kind, "must be an object")
    field, value = f"{kind}.{str(problem['loc'][0])[:50]}", problem["input"]
    if problem["type"] == "extra_forbidden":
        return InvalidInput(field, "is an unknown column; update convokit-sql")
    if problem["type"] == "missing" or value is None:
        return InvalidInput(field, "is missing")
    if problem["type"] in ("string_pattern_mismatch", "string_unicode"):
        validate_text(field, value, limit=2**62, setting="")  # names the character and its position
    message = problem["msg"].removeprefix("Value error, ")
    # Only numbers are quoted: a text may be somebody's private message.
    return InvalidInput(field, f"{message}, not {value}" if isinstance(value, int | float) else message)
