"""Export and import conversations."""

from typing import TYPE_CHECKING

from convokit._lazy import opened_on_use

if TYPE_CHECKING:
    from convokit.transfer import export as export
    from convokit.transfer import flows as flows
    from convokit.transfer import format_chatgpt as format_chatgpt
    from convokit.transfer import format_messages as format_messages
    from convokit.transfer import format_text as format_text
    from convokit.transfer import importer as importer
    from convokit.transfer import jsonl as jsonl
    from convokit.transfer import models as models
    from convokit.transfer import reader as reader
    from convokit.transfer import restore as restore
    from convokit.transfer import row_checks as row_checks
    from convokit.transfer import sql as sql
else:
    __getattr__ = opened_on_use(
        __name__,
        "export",
        "flows",
        "format_chatgpt",
        "format_messages",
        "format_text",
        "importer",
        "jsonl",
        "models",
        "reader",
        "restore",
        "row_checks",
        "sql",
    )
