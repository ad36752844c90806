"""Import message arrays in the API's shape.

A file contains one JSON array, or one conversation on each line. A developer (or system) message at the beginning becomes the
conversation's developer prompt. A message that the API would refuse is an error. A call without its result, or an empty
message, is stored and left out of requests.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from convokit.domain.message import INSTRUCTION_ROLES, extract_text
from convokit.domain.text import dump_json, to_plain_json
from convokit.errors import BadRecord, InvalidInput
from convokit.settings import Limits
from convokit.transfer import import_file
from convokit.transfer.drafts import ConversationDraft, draft_message
from convokit.transfer.import_file import ImportFile, describe_json_error, parse_json, read_array
from convokit.transfer.importer import FormatReader, Record


class MessagesReader(FormatReader):
    """Reads message arrays. With a `key`, the file must hold only one conversation."""

    takes_key = True

    def __init__(self, file: ImportFile, limits: Limits, key: str | None) -> None:
        super().__init__(file, limits, key)
        self._is_key_used = False

    def read_records(self) -> Iterator[Record]:
        """Yield the conversations of the file: of each line, or of one array over many lines."""
        file = self._file
        text = file.readline()
        while text and not text.strip():
            text = file.readline()
        try:
            parse_json(text)
        except (ValueError, RecursionError):
            if text.lstrip()[:1] == "[":
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
        values = read_array(self._file, first_line)
        try:
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
        messages = values.get("messages")
        if not isinstance(messages, list):
            raise InvalidInput("messages", "must be a list of messages")
        if self._key is not None and self._is_key_used:
            raise InvalidInput("key", "belongs to one conversation, but the file has more; import it without a key")
        self._is_key_used = True
        digest = hashlib.sha256(dump_json(to_plain_json("messages", messages)).encode("utf-8")).hexdigest()
        # The ref of an import entry has this form: source, number of chain entries there (none), hash.
        draft = ConversationDraft(f"messages:0:{digest}")
        draft.set_fields(values, self._limits)
        if self._key is not None:
            draft.key = self._key
        for index, message in enumerate(messages):
            self._add_message(draft, index, message)
        draft.head = len(draft.messages) - 1 if draft.messages else None
        return draft

    def _add_message(self, draft: ConversationDraft, index: int, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise InvalidInput(f"messages[{index}]", f"must be an object, not {type(value).__name__}")
        message, content = draft_message(f"messages[{index}]", value, self._limits)
        if index == 0 and message.role in INSTRUCTION_ROLES:
            text = message.content if message.parts is None else extract_text(message.parts)
            draft.developer_prompt = text or None
            return
        message.parent = len(draft.messages) - 1 if draft.messages else None
        draft.messages.append(message)
        draft.add_blobs(content)


def _is_list_of_conversations(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, Mapping) and "messages" in first)
