"""Define the options of a kit, a chat or a call.

A call overrides its chat, which overrides the kit, setting by setting and parameter by parameter. A chat stores only
the settings that were given to it. So a deployment with a new prompt reaches old conversations at their next turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from convokit.context.strategy import Strategy
from convokit.context.validity import PartialPolicy
from convokit.domain.params import OUTPUT_CAPS, CommonParams, RequestParams, validate_params
from convokit.domain.profiles import Profile
from convokit.domain.text import validate_text
from convokit.errors import SettingsError
from convokit.settings import UNSET, Budget, Retry, Summary, Timeouts, Unset
from convokit.tokens.counter import Counter
from convokit.tools import decorator
from convokit.tools.tool import Tool
from convokit.wire.message_encoding import Unsupported
from convokit.wire.request import Mode

PartLike = str | Mapping[str, Any]
"""A content part in the API's shape; plain text is a text part."""


_NOT_STORED = frozenset({"extra_headers", "response_format"})
"""Headers may be secrets, and a response model is code. They hold for the handle and are not stored."""
MAX_PROMPT_BYTES = 1024 * 1024
MAX_MODEL_BYTES = 1024
_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "developer_prompt": (str, type(None)),
    "budget": (Budget,),
    "retry": (Retry,),
    "timeouts": (Timeouts,),
    "profile": (Profile, str),
    "max_tool_rounds": (int,),
    "summary": (Summary, type(None)),
    "start": (int,),
}
_CALL_SETTINGS = (
    "model",
    "developer_prompt",
    "budget",
    "retry",
    "timeouts",
    "tools",
    "max_tool_rounds",
    "strategy",
    "summary",
    "window",
    "start",
    "anchor",
)
_STRATEGY_MEMBERS = ("name", "most_turns", "select")
_CHOICES = {
    "mode": ("strict", "drop", "pass"),
    "partial": ("include", "mark", "leave_out"),
    "unsupported": ("raise", "placeholder"),
    "window": ("exact",),
}


class CallOptions(CommonParams, total=False):
    """The options of one call: these, and every request parameter but `response_format`.

    An option that is not given comes from the chat, then from the kit.
    """

    model: str
    developer_prompt: str | None
    """Sent with this call in place of the chat's; None sends none."""
    budget: Budget
    retry: Retry
    timeouts: Timeouts
    tools: Sequence[decorator.ToolLike]
    """Typed functions, `Tool`s or the API's own dicts."""
    max_tool_rounds: int
    """The maximum number of rounds in which tool calls of the model are run (default 8); 0 runs none."""
    strategy: Strategy
    """Chooses the history that is sent."""
    summary: Summary | None
    """Summarizes messages that fall out of the window; None makes no summaries."""
    window: Literal["exact"]
    """Sends the path from message `start` on, whole: no trimming, no summary and no pins from before."""
    start: int
    """The seq of the first message of `window="exact"` (default 1)."""
    anchor: Callable[[Mapping[str, Any]], bytes | None]
    """Returns a digest under which a message is found later, or None. It is called with the message that the turn answers and
    with the reply, both in the API's shape. A row with the digest is written and removed together with the message."""
    metadata: dict[str, str]
    """The API's own metadata, as `api_metadata`. The conversation's metadata is set by `kit.chat(metadata=...)`."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a kit, a chat or a call. `UNSET` means "not given"; None is a value."""

    model: str | Unset = UNSET
    developer_prompt: str | Unset | None = UNSET
    budget: Budget | Unset = UNSET
    retry: Retry | Unset = UNSET
    timeouts: Timeouts | Unset = UNSET
    profile: Profile | str | Unset = UNSET
    counter: Counter | Unset = UNSET
    mode: Mode | Unset = UNSET
    partial: PartialPolicy | Unset = UNSET
    unsupported: Unsupported | Unset = UNSET
    tools: tuple[Tool, ...] | Unset = UNSET
    max_tool_rounds: int | Unset = UNSET
    strategy: Strategy | Unset = UNSET
    summary: Summary | Unset | None = UNSET
    params: RequestParams = field(default_factory=RequestParams, repr=False)
    window: Literal["exact"] | Unset = UNSET
    start: int | Unset = UNSET
    anchor: Callable[[Mapping[str, Any]], bytes | None] | Unset = UNSET

    def __post_init__(self) -> None:
        if not self.params and all(getattr(self, name) is UNSET for name in _FIELDS):
            return
        object.__setattr__(self, "params", validate_params(self.params, are_all=False))
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if value is not UNSET and not isinstance(value, types):
                wanted = " or ".join(each.__name__ for each in types)
                raise SettingsError(name, f"must be {wanted.replace('NoneType', 'None')}, not {value!r}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not UNSET and value not in choices:
                raise SettingsError(name, f"must be one of {', '.join(choices)}, not {value!r}")
        if isinstance(self.developer_prompt, str):
            validate_text("developer_prompt", self.developer_prompt, limit=MAX_PROMPT_BYTES, setting="a fixed limit")
        if self.model == "":
            raise SettingsError("model", "is empty")
        if isinstance(self.model, str):
            validate_text("model", self.model, limit=MAX_MODEL_BYTES, setting="a fixed limit")
        if self.counter is not UNSET and not (hasattr(self.counter, "count") and hasattr(self.counter, "name")):
            raise SettingsError("counter", f"must have `count(text) -> int` and a `name`, not {self.counter!r}")
        if self.strategy is not UNSET and not all(hasattr(self.strategy, name) for name in _STRATEGY_MEMBERS):
            raise SettingsError("strategy", f"must have {', '.join(_STRATEGY_MEMBERS)}, not {self.strategy!r}")
        if isinstance(self.summary, Summary):
            validate_params(self.summary.params)
            validate_text("Summary.prompt", self.summary.prompt, limit=MAX_PROMPT_BYTES, setting="a fixed limit")
        if self.start is not UNSET and (self.window is UNSET or isinstance(self.start, bool) or self.start < 1):
            problem = 'needs window="exact"' if self.window is UNSET else f"must be a seq, 1 or more, not {self.start}"
            raise SettingsError("start", problem)
        if not isinstance(self.anchor, Unset) and not callable(self.anchor):
            raise SettingsError("anchor", f"must be a function of a message, not {self.anchor!r}")
        if isinstance(self.max_tool_rounds, bool) or (
            not isinstance(self.max_tool_rounds, Unset) and self.max_tool_rounds < 0
        ):
            raise SettingsError("max_tool_rounds", f"must be 0 (never run a tool) or more, not {self.max_tool_rounds}")

    def over(self, below: Options) -> Options:
        """Return these options, completed by `below` where a setting was not given."""
        merged = object.__new__(Options)  # without __post_init__: both parts are validated already
        for name in _FIELDS:
            own = getattr(self, name)
            object.__setattr__(merged, name, getattr(below, name) if own is UNSET else own)
        both = self.params and below.params
        params = _merge_params(self.params, below.params) if both else self.params or below.params
        object.__setattr__(merged, "params", params)
        return merged

    def to_json(self) -> str | None:
        """Return the settings that a chat stores: model, developer prompt and parameters."""
        values: dict[str, Any] = {}
        if self.model is not UNSET:
            values["model"] = self.model
        if self.developer_prompt is not UNSET:
            values["developer_prompt"] = self.developer_prompt
        kept = {name: value for name, value in self.params.items() if name not in _NOT_STORED}
        if kept:
            values["params"] = kept
        return json.dumps(values, ensure_ascii=False, sort_keys=True) if values else None

    @classmethod
    def from_json(cls, stored: str | None) -> Options:
        """Return the settings that a chat stored."""
        values: Mapping[str, Any] = json.loads(stored) if stored else {}
        return cls(
            model=values.get("model", UNSET),
            developer_prompt=values.get("developer_prompt", UNSET),
            params=values.get("params", {}),
        )


def _merge_params(own: RequestParams, below: RequestParams) -> RequestParams:
    """Return all parameters. One limit of the reply replaces the other, whatever their names are."""
    has_cap = any(name in own for name in OUTPUT_CAPS)
    kept = {name: value for name, value in below.items() if not (has_cap and name in OUTPUT_CAPS)}
    return cast("RequestParams", {**kept, **own})


_FIELDS = tuple(each.name for each in fields(Options) if each.name != "params")
NO_OPTIONS = Options()
"""The options of a call that sets nothing."""


def to_options(given: CallOptions, response_format: Any = UNSET) -> Options:
    """Return the keyword arguments of a call as options. Raises: SettingsError."""
    values: dict[str, Any] = dict(given)
    if response_format is not UNSET:
        values["response_format"] = response_format
    if not values:
        return NO_OPTIONS
    own: dict[str, Any] = {name: values.pop(name) for name in _CALL_SETTINGS if name in values}
    own["tools"] = to_tools(own.get("tools", UNSET))
    if "metadata" not in values:
        return Options(**own, params=cast("RequestParams", values))
    if "api_metadata" in values:
        raise SettingsError("metadata", "is the same parameter as api_metadata: pass one of them")
    values["api_metadata"] = values.pop("metadata")
    try:
        return Options(**own, params=cast("RequestParams", values))
    except SettingsError as error:  # it names the parameter as the caller wrote it
        if not error.setting.startswith("api_metadata"):
            raise
        raise SettingsError(error.setting.removeprefix("api_"), str(error).partition(": ")[2]) from None


def to_tools(given: Sequence[decorator.ToolLike] | Unset) -> tuple[Tool, ...] | Unset:
    """Return functions and dicts as `Tool`s. Raises: SettingsError for a function that cannot be a tool."""
    return given if isinstance(given, Unset) else decorator.to_tools(given)
