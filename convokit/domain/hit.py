"""What a search finds: a message, and where in it the words are."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.message import Message


class Hit(BaseModel):
    """A message that holds what was looked for.

    `snippet` is a piece of its text, with `…` where it was cut; `marks` are the places of the words in the snippet, each from a
    character up to another. `rank` is between 0 and 1, the best first.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    key: str | None = None
    message: Message
    snippet: str
    marks: list[tuple[int, int]]
    rank: float

    def highlighted(self, before: str = "**", after: str = "**") -> str:
        """Return the snippet with signs around each of the words."""
        made, last = [], 0
        for start, end in self.marks:
            made += [self.snippet[last:start], before, self.snippet[start:end], after]
            last = end
        return "".join([*made, self.snippet[last:]])
