"""Remove text: redact a message, erase or purge a conversation."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.erasure import flows as flows
    from convokit.erasure import removals as removals
    from convokit.erasure import residue as residue
    from convokit.erasure import sql as sql
else:
    __getattr__ = import_on_use(
        __name__,
        "flows",
        "removals",
        "residue",
        "sql",
    )
