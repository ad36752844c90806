"""The page of tables and columns: names, types and keys from the schema, words from beside its columns and from here."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Table

from convokit.store import indexes as store_indexes
from convokit.store import schema
from tests.docs import render

LEAD = """Every table begins with `convokit_`. They are made by the Alembic scripts that the package carries, and by nothing
else; the version table is `convokit_alembic_version`.

- Order is `seq`, never time. Times are microseconds since 1970 UTC and are for people to read, except `lease_until`, which is
  set and compared by the database's own clock.
- JSON is text that the library serialises itself ([why](../adr/0007-json-as-text.md)).
- A message's public id is its place, `<conversation id>:<seq>`; no column holds it
  ([why](../adr/0005-message-ids-are-positions.md)).
- Every table below a conversation leads its key with `conversation_id`, and a deleted conversation takes them along.
"""

TABLES = {
    "convokit_schema": "One row for the whole database.",
    "convokit_conversation": "One conversation. What changes in it is its head, its settings and its title, never its words.",
    "convokit_branch": "The branches of a conversation besides the main one, which is number 0 and has its head in the "
    "conversation's own row.",
    "convokit_message": "One message, immutable once written. Messages form a tree: `parent_seq` is the message before.",
    "convokit_turn": "One question and all that came of it. While it is open it holds its branch.",
    "convokit_chunk": "Pieces of a reply on its way. Deleted in the transaction that saves the reply.",
    "convokit_completion": "One API call of a turn, repeats counted one by one; committed before its first byte is sent.",
    "convokit_tool_call": "Tool calls that were run here: recorded before they run, and again with what became of them.",
    "convokit_entry": "The chain: one row for each message and each finished API call, in the order they became final.",
    "convokit_prompt": "Developer prompts and sets of tools, each once per tenant.",
    "convokit_prompt_use": "Which prompts and sets of tools the requests of a conversation name. An erasure deletes "
    "the prompts that no row names ([why](../adr/0040-prompt-uses.md)).",
    "convokit_anchor": "The digests by which the gateway finds a conversation from the messages that a client sends "
    "([why](../adr/0048-match-histories-by-anchors.md)). No key of a client is needed for it.",
    "convokit_key": "API keys of the gateway: their digests, and what they may do.",
    "convokit_key_window": "How many requests of an API key were served in a minute. Processes take several at once.",
    "convokit_blob": "Binary content parts, each once per conversation.",
    "convokit_summary": "Which messages a summary stands for.",
    "convokit_search": "What search finds: one row for each message with words ([why](../adr/0021-search.md)), and one for the "
    "title of the conversation, with seq 0 and role `title` ([why](../adr/0037-titles-in-the-search-index.md)). On SQLite its "
    "rowid has a name, `id`, and the words are in the FTS5 table `convokit_search_words`.",
    "convokit_removal": "What was lawfully removed, by whom and why.",
}

RESERVED: frozenset[str] = frozenset()
"""Tables that the schema has and no code uses yet."""

WORDS = {
    "convokit_schema.oldest_code": "Code of a lower generation refuses this database.",
    "convokit_conversation.id": "From database id, tenant and key where there is a key (UUIDv8), else drawn (UUIDv7).",
    "convokit_conversation.tenant": "Whose it is; every statement that looks a conversation up names the tenant.",
    "convokit_conversation.key": "The name it is opened under; never changed.",
    "convokit_conversation.subject": "The person it belongs to. `update` changes it.",
    "convokit_conversation.title": "A name for people. It is stored once by `kit.chat(title=)` and changed by `update`.",
    "convokit_conversation.metadata": "JSON object of the application's own.",
    "convokit_conversation.last_seq": "The highest `seq` given out, on all branches.",
    "convokit_conversation.chain_hash": "The hash of the last entry.",
    "convokit_conversation.created_at": "When its first turn began.",
    "convokit_conversation.updated_at": "When it was last used; no message of it is newer. `update` does not change it.",
    "convokit_conversation.archived_at": "When `update` archived it. A new turn or append sets it to null.",
    "convokit_conversation.pins": "JSON array of seqs: messages that are sent also from before the window.",
    "convokit_branch.number": "From 1; 0 is the main branch and has no row here.",
    "convokit_branch.name": "A name for people.",
    "convokit_branch.head_seq": "The last message of the branch.",
    "convokit_branch.created_at": "When it was made.",
    "convokit_message.seq": "Its place: 1, 2, 3 … in the order of writing, without gaps.",
    "convokit_message.parent_seq": "The message before it; null for a first message.",
    "convokit_message.turn_id": "The turn that wrote it.",
    "convokit_message.role": "As the API has it: `user`, `assistant`, `tool` …",
    "convokit_message.content": "Its text, when the content is plain text.",
    "convokit_message.tool_calls": "JSON, verbatim as the server sent it.",
    "convokit_message.tool_call_id": "On tool results: the call they answer.",
    "convokit_message.name": "The API's optional name of the author.",
    "convokit_message.refusal": "The model's refusal, where it refused.",
    "convokit_message.status": "`complete`, `partial`, `late` or `redacted`.",
    "convokit_message.tokens": "What it costs, its overhead included, as counted by `counter`.",
    "convokit_message.counter": "The name of the counter that counted.",
    "convokit_message.salt": "Salts the message's commitment in the chain.",
    "convokit_message.created_at": "When it was written.",
    "convokit_turn.id": "UUIDv7.",
    "convokit_turn.branch": "The branch it runs on.",
    "convokit_turn.question_seq": "The question it answers; for tool results alone, the question of their calls.",
    "convokit_turn.after_seq": "If the question was there already: the last message when the turn began.",
    "convokit_turn.after_entry": "And the chain's last entry then; both null for the turn that asked its question.",
    "convokit_turn.reply_seq": "The reply, complete or partial.",
    "convokit_turn.idempotency_hash": "Hash of the caller's idempotency key.",
    "convokit_turn.fingerprint": "Salted digest of the request that came with that key.",
    "convokit_turn.fingerprint_salt": "Its salt.",
    "convokit_turn.state": "`open`, `completed`, `interrupted`, `cancelled`, `failed`, `abandoned` or `superseded`.",
    "convokit_turn.owner": "The process that holds it: host, boot, pid, start.",
    "convokit_turn.lease_until": "Until when it is held; past that, another process may take it over.",
    "convokit_turn.error": "JSON: how it failed. Holds no text of anyone's.",
    "convokit_turn.started_at": "When the question was saved.",
    "convokit_turn.first_token_at": "When the first piece of the reply came.",
    "convokit_turn.ended_at": "When it was closed.",
    "convokit_chunk.turn_id": "The turn.",
    "convokit_chunk.completion": "The number of the API call.",
    "convokit_chunk.number": "1, 2, 3 …",
    "convokit_chunk.text": "The piece.",
    "convokit_completion.turn_id": "The turn.",
    "convokit_completion.number": "1 for the first call of the turn, one more for each repeat.",
    "convokit_completion.state": "`sending`, `streaming`, `ok`, `error`, `ambiguous` or `abandoned`.",
    "convokit_completion.body_salt": "Salts `body_digest`.",
    "convokit_completion.body_digest": "Salted SHA-256 of the exact bytes that were sent.",
    "convokit_completion.requested_model": "The model that was asked for.",
    "convokit_completion.provider": "Who was asked: the profile's provider, else the server's host.",
    "convokit_completion.served_model": "The model that the server says answered.",
    "convokit_completion.response_id": "The server's id of the completion.",
    "convokit_completion.request_id": "The server's id of the request, from the response's headers.",
    "convokit_completion.finish_reason": "The server's own word: `stop`, `length`, `tool_calls`, `content_filter` …",
    "convokit_completion.prompt_tokens": "Null when nobody reported it; never 0 for unknown. So with all counts.",
    "convokit_completion.completion_tokens": "Tokens of the reply.",
    "convokit_completion.cached_tokens": "Of the prompt, how many came from the provider's cache.",
    "convokit_completion.cache_write_tokens": "Of the prompt, how many were written to it.",
    "convokit_completion.reasoning_tokens": "Of the reply, how many were reasoning.",
    "convokit_completion.usage_source": "`reported` by the server, `estimated` here, or `absent`.",
    "convokit_completion.service_tier": "The tier that served it.",
    "convokit_completion.cost_nanousd": "What the server said the call cost, in billionths of a US dollar.",
    "convokit_completion.error": "JSON: how the call failed. Holds no text of anyone's.",
    "convokit_completion.salt": "Salts the call's commitment in the chain.",
    "convokit_completion.started_at": "Before the first byte was sent.",
    "convokit_completion.first_byte_at": "When the answer began.",
    "convokit_completion.ended_at": "When it was over.",
    "convokit_tool_call.turn_id": "The turn.",
    "convokit_tool_call.message_seq": "The assistant's message that holds the call.",
    "convokit_tool_call.position": "The call's place in that message.",
    "convokit_tool_call.call_id": "The id the model gave it.",
    "convokit_tool_call.name": "The tool.",
    "convokit_tool_call.state": "`running`, `done` or `failed`.",
    "convokit_tool_call.result_seq": "The message that holds its result.",
    "convokit_tool_call.error": "The name of the exception it ended in.",
    "convokit_tool_call.started_at": "When it was started.",
    "convokit_tool_call.ended_at": "When it was over.",
    "convokit_entry.number": "1, 2, 3 … without gaps.",
    "convokit_entry.kind": "`message`, `completion`, `redaction` or `erasure`.",
    "convokit_entry.ref": "The row: a message's `seq`, or a call's `turn id:number`.",
    "convokit_entry.commitment": "Salted digest of the row as it became final.",
    "convokit_entry.hash": "Hash over the entry and the hash before it, which no column repeats "
    "([why](../adr/0006-no-stored-previous-hash.md)).",
    "convokit_prompt.tenant": "Whose it is.",
    "convokit_prompt.digest": "The first 16 bytes of the text's SHA-256.",
    "convokit_prompt.body": "The text.",
    "convokit_anchor.tenant": "Whose it is.",
    "convokit_anchor.created_at": "The message's.",
    "convokit_key.tenant": "Whose conversations the key opens.",
    "convokit_key.name": "What people call it. Unique within the tenant, also after it was revoked.",
    "convokit_key.requests_per_minute": "The limit; null for none.",
    "convokit_key.created_at": "When it was made.",
    "convokit_key.expires_at": "When it ends by itself; null for never.",
    "convokit_key.revoked_at": "When somebody ended it; null for nobody did.",
    "convokit_key_window.digest": "The key's.",
    "convokit_blob.digest": "SHA-256 of the data.",
    "convokit_blob.media_type": "Such as `image/png`.",
    "convokit_blob.data": "The bytes.",
    "convokit_summary.number": "1, 2, 3 …",
    "convokit_summary.from_seq": "The first message it stands for.",
    "convokit_summary.to_seq": "The last one.",
    "convokit_summary.message_seq": "The message that holds its text.",
    "convokit_summary.created_at": "When it was made.",
    "convokit_search.seq": "The message.",
    "convokit_search.role": "The message's, to search by.",
    "convokit_search.created_at": "The message's.",
    "convokit_search.words": "PostgreSQL: a number of 32 bits for each key that finds the message. SQLite: a "
    "checksum of the keys. Null once the words are forgotten.",
    "convokit_removal.author": "Who removed it, as the caller said.",
    "convokit_removal.reason": "Why, as the caller said.",
    "convokit_removal.salt": "Random; hashed with the row.",
    "convokit_removal.created_at": "When.",
}
TYPES = {
    "Uuid": "UUID",
    "Text": "text",
    "Integer": "integer",
    "BigInteger": "big integer",
    "LargeBinary": "bytes",
    "ARRAY": "small integers",
}


def page(note: str) -> str:
    """Return the page."""
    return "\n".join(["# Data model", "", note, "", LEAD, *_tables()]).rstrip() + "\n"


def _tables() -> Iterator[str]:
    beside = render.columns(schema)
    for table in store_indexes.metadata.tables.values():
        yield from (f"## {table.name}", "", _about(table), "", "| column | type | null | |", "|---|---|---|---|")
        words = beside[_class_of(table)]
        for column in table.columns:
            yield f"| `{column.name}` | {TYPES[type(column.type).__name__]} | {_null(column)} | {_words(column, words)} |"
        yield from ("", f"Key: {', '.join(f'`{each.name}`' for each in table.primary_key.columns)}.", "")
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        if indexes:
            yield from (*(_index(index) for index in indexes), "")


def _about(table: Table) -> str:
    reserved = " No code uses it yet: the table is there so that its coming needs no migration."
    return TABLES[table.name] + (reserved if table.name in RESERVED else "")


def _class_of(table: Table) -> str:
    stem = table.name.removeprefix(schema.PREFIX)
    return "".join(part.capitalize() for part in stem.split("_")) + "Columns"


def _null(column: Column[object]) -> str:
    return "yes" if column.nullable else ""


def _words(column: Column[object], beside: dict[str, str]) -> str:
    if column.name == "conversation_id":
        return "The conversation."
    found = WORDS.get(f"{column.table.name}.{column.name}") or beside.get(column.name)
    assert found, f"tests/docs/datamodel.py: say what {column.table.name}.{column.name} is"
    return found.replace("|", "\\|")


def _index(index: object) -> str:
    from sqlalchemy import Index  # noqa: PLC0415

    assert isinstance(index, Index)
    unique = "Unique" if index.unique else "Index"
    where = index.dialect_options["postgresql"]["where"]
    names = ", ".join(f"`{column.name}`" for column in index.columns)
    return f"- {unique} on {names}" + (f" where `{where}`" if where is not None else "")
