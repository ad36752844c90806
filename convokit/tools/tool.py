"""Define a tool that the model may call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from convokit.domain.text import dump_json
from convokit.errors import InvalidInput, SettingsError, UnknownTool
from convokit.tools.arguments import bind_arguments, find_tool

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call.

    A tool with a `function` is run by the turn. Calls of a tool without one, or with `approval`, are returned to the caller.
    `convokit.tool` makes a tool of a Python function. A tool cannot be changed, so its bytes are the same in every request.

    Raises: SettingsError for a name that the API would refuse.
    """

    name: str
    """1 to 64 of A-Z a-z 0-9 _ and -."""
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The JSON schema of the arguments."""
    strict: bool = False
    """Whether the server must hold the model to the schema."""
    function: Callable[..., Any] | None = None
    """Called with the arguments. None: the caller runs the tool."""
    arguments: type[BaseModel] | None = None
    """The pydantic model that validates the arguments. None: they are parsed and not validated."""
    raw: dict[str, Any] | None = None
    """The API's own object, which is sent instead of the fields above. Custom tools are given this way."""
    approval: bool = False
    """Whether the caller decides about each call: the turn does not run the function, `run` does."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SettingsError(
                "tools", f"a tool's name must be 1 to 64 of A-Z a-z 0-9 _ and -, not {self.name!r}: pass name="
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as if it were no tool."""
        if self.function is None:
            raise SettingsError("tools", f"{self.name} has no function: run it yourself, or pass function=")
        return self.function(*args, **kwargs)

    def run(self, call: Mapping[str, Any]) -> Any:
        """Run the function with the arguments of an open call (`Reply.open_calls`), and return its result.

        The arguments are checked as in a turn. The result of an async function must be awaited.

        Raises: UnknownTool if another tool is called, BadArguments, SettingsError if there is no function, and what the
        function raises.
        """
        body = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(body, Mapping):
            raise InvalidInput("call", 'must be a call of a function, as `open_calls` lists it, with its "function"')
        name = str(body.get("name") or "")
        if find_tool({self.name: self}, name) is None:
            raise UnknownTool(name, f"is not a call of the tool {self.name!r}: run the tool of that name")
        if self.function is None:
            raise SettingsError("tools", f"{self.name} has no function: run it yourself, or pass function=")
        return self.function(**bind_arguments(self, str(body.get("arguments") or "")))

    @property
    def is_run_by_turn(self) -> bool:
        """Whether a turn runs the calls of this tool itself."""
        return self.function is not None and not self.approval

    def as_wire(self) -> dict[str, Any]:
        """Return the tool in the shape of the API, with its keys in a fixed order. Do not change the schema in it."""
        if self.raw is not None:
            return dict(self.raw)
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        if self.parameters:
            function["parameters"] = self.parameters
        if self.strict:
            function["strict"] = True
        return {"type": "function", "function": function}

    @classmethod
    def of_dict(cls, raw: Mapping[str, Any]) -> Tool:
        """Return a tool for the API's own object: `{"type": "function", "function": {...}}`, or a custom tool.

        Unknown keys are kept. Raises: SettingsError for an object that the API would refuse.
        """
        kind = raw.get("type")
        if kind not in ("function", "custom"):
            raise SettingsError("tools", f'a tool given as a dict needs "type": "function" or "custom", not {kind!r}')
        body = raw.get(kind)
        if not isinstance(body, Mapping):
            hint = " (a name beside the type is the form of the Responses API)" if "name" in raw else ""
            raise SettingsError("tools", f'a tool of type {kind!r} needs an object "{kind}" with its name{hint}')
        _check_types(body)
        copy: dict[str, Any] = json.loads(_to_json(raw))  # later changes of the caller's dict must not reach a request
        return cls(
            name=body.get("name", ""),
            description=body.get("description") or "",
            parameters=copy[kind].get("parameters") or {},
            strict=body.get("strict") is True,
            raw=copy,
        )


def _check_types(body: Mapping[str, Any]) -> None:
    for key, kind, expected in (
        ("description", str, "text"),
        ("parameters", Mapping, "a JSON schema"),
        ("strict", bool, "true or false"),
    ):
        value = body.get(key)
        if value is not None and not isinstance(value, kind):
            raise SettingsError(
                "tools", f"{key} of {body.get('name')!r} must be {expected}, not {type(value).__name__}"
            )


def _to_json(raw: Mapping[str, Any]) -> str:
    try:
        text = dump_json(dict(raw))
        text.encode("utf-8")  # a lone surrogate is a ValueError
    except (TypeError, ValueError, RecursionError):
        raise SettingsError("tools", "a tool given as a dict contains a value that is not JSON serializable") from None
    return text
