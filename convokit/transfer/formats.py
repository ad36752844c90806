"""List the file formats of exports and imports.

To add an export format, write a module `format_<name>.py` with a generator `export_conversation(connection, row)`, and add a
line to `EXPORT_FORMATS`. The generator yields the text of one conversation in chunks, each with the number of messages in it.

To add an import format, write a module `format_<name>.py` with a subclass of `importer.FormatReader`, and add a line to
`IMPORT_FORMATS`. The reader yields the records of a file and converts each into a `ConversationDraft`.

Type checkers also need the name of the format in `ExportFormat` or `ImportFormat`, in `models.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.transfer import format_jsonl, format_markdown, format_openai
from convokit.transfer.format_chatgpt import ChatGPTReader
from convokit.transfer.format_claude import ClaudeReader
from convokit.transfer.format_messages import MessagesReader
from convokit.transfer.format_openwebui import OpenWebUIReader
from convokit.transfer.format_untrusted import UntrustedReader
from convokit.transfer.importer import FormatReader
from convokit.transfer.models import ExportChunk, ExportFormat, ImportFormat

EXPORT_FORMATS: dict[ExportFormat, Callable[[Connection, ConversationRow], Iterator[ExportChunk]]] = {
    "jsonl": format_jsonl.export_conversation,
    "openai": format_openai.export_conversation,
    "markdown": format_markdown.export_conversation,
}
IMPORT_FORMATS: dict[ImportFormat, type[FormatReader]] = {
    "jsonl": UntrustedReader,  # a trusted file is restored by `restore.Restorer` instead
    "chatgpt": ChatGPTReader,
    "claude": ClaudeReader,
    "openwebui": OpenWebUIReader,
    "messages": MessagesReader,
    "openai": MessagesReader,
}
