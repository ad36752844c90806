"""Declare for every column whether `verify` finds a change of it.

`proven`: `verify` finds every change. `checked`: `verify` finds a change that contradicts another row. `open`: the column may
change, for the reason beside it. The tests and the table in docs/explanation/audit.md use these declarations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from convokit.domain import message, turn

_OF = "conversation_id"
_CLOCK = "for people to read; no order rests on it"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The columns of one table, by what is known of a change in them."""

    proven: frozenset[str]
    checked: frozenset[str] = frozenset()
    open: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Every column that is declared."""
        return {*self.proven, *self.checked, *self.open}


def _columns(*names: str) -> frozenset[str]:
    return frozenset(names)


COVERAGE = {
    "convokit_schema": Coverage(
        _columns(), _columns("database_id"), {"only": "always 1", "oldest_code": "rises with upgrades"}
    ),
    "convokit_conversation": Coverage(
        _columns("id", "key", "last_seq", "last_entry", "chain_hash"),
        _columns("tenant", "head_seq"),
        {
            "subject": "may be set at any turn",
            "title": "a name that may change",
            "metadata": "the application's own, and may change",
            "settings": "may change; what a call was made with is in its manifest",
            "pins": "may change; what was sent is in the calls' manifests",
            "created_at": _CLOCK,
            "updated_at": _CLOCK,
            "archived_at": "may change",
        },
    ),
    "convokit_branch": Coverage(
        _columns(), _columns(_OF, "number", "head_seq"), {"name": "a name that may change", "created_at": _CLOCK}
    ),
    "convokit_message": Coverage(
        _columns(_OF, "salt", *message.CHAINED_COLUMNS, *message.FOREIGN_COLUMNS),
        _columns(),
        dict.fromkeys(("window_tokens", "window_counted"), "sizes the next window; what the server reported is proven"),
    ),
    "convokit_turn": Coverage(
        _columns(_OF, "id", "question_seq", "claim"),
        _columns("branch", "reply_seq", "state", "ended_at"),
        {
            "idempotency_hash": "a lock, not history",
            "fingerprint": "goes with a redaction of what it was taken of",
            "fingerprint_salt": "goes with a redaction of what it was taken of",
            "epoch": "a lock, not history",
            "owner": "a lock, not history",
            "lease_until": "a lock, not history",
            "after_seq": "says what another reply stands beside; the messages' own places are proven",
            "after_entry": "orders the turns of one question; the chain orders what they said",
            "error": "the calls' own errors are proven",
            "metadata": "the application's own, and goes with a redaction",
            "started_at": _CLOCK,
            "first_token_at": _CLOCK,
        },
    ),
    "convokit_chunk": Coverage(
        _columns(),
        _columns(_OF, "turn_id"),
        dict.fromkeys(("completion", "number", "text", "events"), "a reply on its way is not in the chain yet"),
    ),
    "convokit_completion": Coverage(
        _columns(_OF, "salt", *turn.CHAINED_COLUMNS),
        frozenset(),
        {"body_salt": "goes with a redaction of what was sent"},
    ),
    "convokit_tool_call": Coverage(
        _columns(_OF, "turn_id", "message_seq", "position", "call_id", "name", "result_seq"),
        _columns("state"),
        {"error": "what the model was told is a message", "started_at": _CLOCK, "ended_at": _CLOCK},
    ),
    "convokit_entry": Coverage(_columns(_OF, "number", "kind", "ref", "commitment", "hash")),
    "convokit_prompt": Coverage(_columns("tenant", "digest", "body")),
    "convokit_prompt_use": Coverage(_columns(), _columns(_OF, "digest")),
    "convokit_key": Coverage(
        _columns(),
        _columns(),
        dict.fromkeys(
            ("digest", "tenant", "name", "scopes", "models", "requests_per_minute", "created_at", "expires_at"),
            "access to the gateway, not history",
        )
        | {"revoked_at": "may change"},
    ),
    "convokit_key_window": Coverage(
        _columns(), _columns(), dict.fromkeys(("digest", "kind", "period", "used"), "a counter, not history")
    ),
    "convokit_anchor": Coverage(
        _columns(),
        _columns(),
        dict.fromkeys(
            (_OF, "digest", "seq", "tenant", "created_at"), "an index: the gateway compares the messages themselves"
        ),
    ),
    "convokit_blob": Coverage(_columns(_OF, "digest", "media_type", "data")),
    "convokit_summary": Coverage(
        _columns(), _columns(_OF, "number", "from_seq", "to_seq", "message_seq"), {"created_at": _CLOCK}
    ),
    "convokit_search": Coverage(
        _columns(),
        _columns(),
        dict.fromkeys((_OF, "seq", "role", "created_at", "words"), "an index: every hit is looked up in the messages"),
    ),
    "convokit_removal": Coverage(_columns(_OF, "number", "ref", "author", "reason", "salt", "created_at")),
}
"""By table. Of a call that has not ended, only its key and `ended_at` are checked: it is entered when it ends."""
