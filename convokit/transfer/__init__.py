"""Export and import conversations."""

from typing import TYPE_CHECKING

from convokit._lazy import opened_on_use

if TYPE_CHECKING:
    from convokit.transfer import drafts as drafts
    from convokit.transfer import export as export
    from convokit.transfer import files as files
    from convokit.transfer import flows as flows
    from convokit.transfer import format_chatgpt as format_chatgpt
    from convokit.transfer import format_jsonl as format_jsonl
    from convokit.transfer import format_markdown as format_markdown
    from convokit.transfer import format_messages as format_messages
    from convokit.transfer import format_openai as format_openai
    from convokit.transfer import formats as formats
    from convokit.transfer import importer as importer
    from convokit.transfer import models as models
    from convokit.transfer import restore as restore
    from convokit.transfer import row_checks as row_checks
    from convokit.transfer import sql as sql
else:
    __getattr__ = opened_on_use(
        __name__,
        "drafts",
        "export",
        "files",
        "flows",
        "format_chatgpt",
        "format_jsonl",
        "format_markdown",
        "format_messages",
        "format_openai",
        "formats",
        "importer",
        "models",
        "restore",
        "row_checks",
        "sql",
    )
