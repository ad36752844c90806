"""A tool the model may call: what it is told about it, and what runs when it calls.

A `Tool` is a value, made once and the same ever after, so the bytes it is sent as never change between turns. One with a
`function` is run by the turn; one without is only described, and its calls are handed to the caller. A tool given as the
API's own object (`raw`, custom tools too) is checked for its name and otherwise sent as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from convokit.domain.text import dump_json
from convokit.errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `parameters` is the JSON schema of its arguments, `arguments` the model that checks them when they come.

    `strict` asks the server to hold the model to the schema. Raises: SettingsError when the API would refuse the name.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool = False
    function: Callable[..., Any] | None = None
    """What is run; None: the tool is only described and the caller runs it."""
    arguments: type[BaseModel] | None = None
    raw: dict[str, Any] | None = None
    """The API's own object, sent in place of all the above."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SettingsError(
                "tools", f"a tool's name is 1 to 64 of A-Z a-z 0-9 _ and -, not {self.name!r}: name it so"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as if it had not been made a tool."""
        if self.function is None:
            raise SettingsError("tools", f"{self.name} is only described: it has no function to call")
        return self.function(*args, **kwargs)

    def as_wire(self) -> dict[str, Any]:
        """Return the tool in the API's shape, its keys always in one order. The schema in it is the tool's own: read only."""
        if self.raw is not None:
            return dict(self.raw)
        described: dict[str, Any] = {"name": self.name}
        if self.description:
            described["description"] = self.description
        if self.parameters:
            described["parameters"] = self.parameters
        if self.strict:
            described["strict"] = True
        return {"type": "function", "function": described}

    @classmethod
    def of_dict(cls, raw: Mapping[str, Any]) -> Tool:
        """Return a tool given as the API's own object: `{"type": "function", "function": {...}}`, or a custom tool.

        Raises: SettingsError saying what is not as the API has it. Keys that are not known here are kept.
        """
        kind = raw.get("type")
        if kind not in ("function", "custom"):
            raise SettingsError("tools", f'a tool given as a dict has "type": "function" or "custom", not {kind!r}')
        body = raw.get(kind)
        if not isinstance(body, Mapping):
            flat = " (the name beside the type is another API's form)" if "name" in raw else ""
            raise SettingsError("tools", f'a tool of type {kind!r} holds its name and the rest in "{kind}"{flat}')
        _check_types(body)
        kept: dict[str, Any] = json.loads(_text(raw))
        return cls(
            name=body.get("name", ""),
            description=body.get("description") or "",
            parameters=kept[kind].get("parameters") or {},
            strict=body.get("strict") is True,
            raw=kept,
        )


def _check_types(body: Mapping[str, Any]) -> None:
    for key, kind, words in (
        ("description", str, "text"),
        ("parameters", Mapping, "a JSON schema"),
        ("strict", bool, "true or false"),
    ):
        value = body.get(key)
        if value is not None and not isinstance(value, kind):
            raise SettingsError("tools", f"{key} of {body.get('name')!r} must be {words}, not {type(value).__name__}")


def _text(raw: Mapping[str, Any]) -> str:
    """Return the tool as JSON text: proof that it can be sent, and a copy that nobody else can change."""
    try:
        text = dump_json(dict(raw))
        text.encode("utf-8")  # a lone surrogate is a ValueError
    except (TypeError, ValueError, RecursionError):
        raise SettingsError("tools", "a tool given as a dict holds a value that JSON does not have") from None
    return text
