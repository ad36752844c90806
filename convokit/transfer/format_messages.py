"""Import message arrays in the API's shape.

A file contains one JSON array or object, or one conversation on each line. A message that the API would refuse is an error. A
call without its result, or an empty message, is stored and left out of requests.

A developer (or system) message at the beginning of a trusted file becomes the conversation's developer prompt. Without trust,
no instructions are imported. The training data of a fine-tuning sample is kept for an export, and never sent.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convokit.context.message_draft import draft_message
from convokit.domain.message import DEVELOPER, INSTRUCTION_ROLES, extract_text
from convokit.domain.text import dump_json, to_plain_json
from convokit.errors import BadRecord, InvalidInput
from convokit.transfer import import_file
from convokit.transfer.drafts import ConversationDraft, validate_label
from convokit.transfer.foreign_formats import find_hint
from convokit.transfer.import_file import describe_json_error, is_cut_off, parse_json, read_values
from convokit.transfer.importer import FormatReader, Record
from convokit.transfer.timestamps import read_time
from convokit.transfer.training_data import SAMPLE_KEYS, keep_sample, keep_weight

_TIME_KEYS = frozenset({"created_at", "timestamp"})
_MESSAGE_KEYS = _TIME_KEYS | {
    "role", "content", "tool_calls", "tool_call_id", "name", "refusal", "function_call", "weight",
}  # fmt: skip
_CONTENT_KEYS = ("messages", *SAMPLE_KEYS)
_CONVERSATION_KEYS = _TIME_KEYS | {"messages", "key", "title", "subject", "metadata", "updated_at", *SAMPLE_KEYS}
# Keys that an object in an array has if it is a conversation and not a message: ours, and those of other programs.
_CONVERSATION_MARKS = frozenset({"messages", "conversations", "mapping", "chat_messages", "chat", "preferred_output"})


class MessagesReader(FormatReader):
    """Reads message arrays. With a `key`, the file must hold only one conversation."""

    takes_key = True

    def read_records(self) -> Iterator[Record]:
        """Yield the conversations of the file: of each line, or of one array over many lines."""
        file = self._file
        text = " "
        while text and not text.strip():
            try:
                text = file.readline()
            except BadRecord as error:
                yield file.line, error
        try:
            parse_json(text)
        except (ValueError, RecursionError) as error:
            # A line with a mistake before its end is a bad line. One that breaks off begins a document of many lines.
            if text.lstrip()[:1] == "[" or (text.lstrip()[:1] == "{" and is_cut_off(error, text)):
                yield from self._read_document(text)
                return
        while text:
            if text.strip():
                yield from self._read_line(text)
            try:
                text = file.readline()
            except BadRecord as error:
                yield file.line, error
                text = " "  # go on with the next line

    def _read_line(self, text: str) -> Iterator[Record]:
        line = self._file.line
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as error:
            yield line, self._file.make_error(f"is not JSON: {describe_json_error(error)}")
            return
        if _is_list_of_conversations(value):
            yield from ((line, each) for each in value)
        else:
            yield line, value

    def _read_document(self, first_line: str) -> Iterator[Record]:
        values = read_values(self._file, first_line)
        try:
            if first_line.lstrip()[:1] == "{":
                yield from values
                return
            first = next(values, None)
            if first is None:
                yield 1, []
            elif _is_list_of_conversations([first[1]]):
                yield first
                yield from values
            else:
                yield first[0], self._collect_messages(first, values)
        except BadRecord as error:
            yield error.line or 1, error

    def _collect_messages(self, first: tuple[int, Any], values: Iterator[tuple[int, Any]]) -> list[Any]:
        messages = []
        for _, value in itertools.chain([first], values):
            if self._file.done > import_file.MAX_RECORD_CHARS:
                limit = f"{import_file.MAX_RECORD_CHARS:,} characters, the limit for a record"
                raise self._file.make_error(f"the conversation is longer than {limit}", first[0])
            messages.append(value)
        return messages

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a message array, or of an object with `messages`. Raises: InvalidInput, TooLarge."""
        values: Mapping[str, Any] = value if isinstance(value, Mapping) else {"messages": value}
        messages, hint = values.get("messages"), find_hint(value)
        if not isinstance(messages, list):
            raise InvalidInput("messages", f"must be a list of messages{hint}")
        if hint and messages and not (isinstance(messages[0], Mapping) and "role" in messages[0]):
            raise InvalidInput("messages", f"are not in the API's shape{hint}")
        content = [to_plain_json(name, values[name], max_number=2**64) for name in _CONTENT_KEYS if name in values]
        digest = hashlib.sha256(dump_json(content if len(content) > 1 else content[0]).encode("utf-8")).hexdigest()
        # The ref of an import entry has this form: source, number of chain entries there (none), hash.
        draft = ConversationDraft(f"messages:0:{digest}")
        draft.key = self._options.choose_key(values.get("key"), draft.left_out)
        draft.set_fields(values, self._limits)
        self._set_subject(draft, values.get("subject"))
        instructions: dict[str, Any] | None = None
        for index, message in enumerate(messages):
            left_out = self._add_message(draft, index, message)
            instructions = left_out if index == 0 else instructions
        if draft.messages:
            keep_sample(draft.messages[0], values, instructions, self._limits)
        draft.head = len(draft.messages) - 1 if draft.messages else None
        draft.left_out["fields"] += _count_unknown(values, _CONVERSATION_KEYS)
        self._set_times(draft, values)
        return draft

    def _set_subject(self, draft: ConversationDraft, subject: object) -> None:
        if subject is None or subject == "":
            return
        if self._options.trusted:
            draft.subject = validate_label("subject", subject, self._limits)
        else:
            draft.left_out["subjects"] += 1

    def _add_message(self, draft: ConversationDraft, index: int, value: Any) -> dict[str, Any] | None:
        """Add a message. Return it in the API's shape if it is instructions that do not become a message."""
        path = f"messages[{index}]"
        if not isinstance(value, Mapping):
            raise InvalidInput(path, f"must be an object, not {type(value).__name__}")
        message, content = draft_message(path, value, self._limits)
        if message.role in INSTRUCTION_ROLES and (index == 0 or not self._options.trusted):
            if not self._options.trusted:
                draft.left_out["instructions"] += 1
                return message.as_wire()
            draft.developer_prompt = extract_text(message.content if message.parts is None else message.parts) or None
            # An export for training names the role DEVELOPER, unless the sample keeps another one.
            return None if message.role == DEVELOPER else message.as_wire()
        message.parent = len(draft.messages) - 1 if draft.messages else None
        message.created_at = _find_time(value, draft)
        if not self._options.trusted:
            draft.left_out["vendor_keys"] += message.drop_vendor_keys()
            draft.left_out["files"] += message.drop_file_ids()
        unknown = _count_unknown(value, _MESSAGE_KEYS)
        if value.get("weight") is not None and not keep_weight(message, value["weight"]):
            unknown += 1
        draft.left_out["fields"] += unknown
        draft.messages.append(message)
        draft.add_blobs(content)
        return None

    def _set_times(self, draft: ConversationDraft, values: Mapping[str, Any]) -> None:
        times = [message.created_at for message in draft.messages if message.created_at is not None]
        draft.created_at = _find_time(values, draft)
        if draft.created_at is None and times:
            draft.created_at = min(times)
        draft.updated_at = _find_time(values, draft, ("updated_at",))


def _find_time(
    values: Mapping[str, Any], draft: ConversationDraft, names: Sequence[str] = ("created_at", "timestamp")
) -> int | None:
    """Return the first time that is given and can be read, as microseconds. Count one that cannot be read."""
    given = [values[name] for name in names if values.get(name) is not None]
    times = [time for value in given if (time := read_time(value)) is not None]
    draft.left_out["times"] += len(given) - len(times)
    return times[0] if times else None


def _count_unknown(values: Mapping[str, Any], known: frozenset[str]) -> int:
    return sum(value is not None and name not in known for name, value in values.items())


def _is_list_of_conversations(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, Mapping) and not _CONVERSATION_MARKS.isdisjoint(first))
