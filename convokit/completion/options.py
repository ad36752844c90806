"""Settings on their way from kit, chat and call to one request.

Per call beats the chat, which beats the kit, setting by setting and parameter by parameter. A chat stores only what was set
on it: so a deploy with a new prompt reaches old conversations at their next turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from convokit.context.builder import ContextBuilder
from convokit.context.strategy import Strategy
from convokit.context.summary import summary_reserve
from convokit.context.validity import PartialPolicy
from convokit.domain.params import RequestParams, validate_params
from convokit.domain.profiles import Profile, resolve_profile
from convokit.domain.text import validate_text
from convokit.domain.tool import Tool
from convokit.errors import SettingsError
from convokit.settings import UNSET, Budget, Retry, Summary, Timeouts, Unset
from convokit.tokens.counter import Counter
from convokit.tools import decorator
from convokit.wire import structured_output
from convokit.wire.messages import Unsupported
from convokit.wire.request import Mode

Value = TypeVar("Value")
PartLike = str | Mapping[str, Any]
"""A content part in the API's shape; plain text is a text part."""


_NOT_STORED = frozenset({"extra_headers", "response_format"})
"""Headers may be secrets, and a response model is code: they hold for the handle, and are not stored."""
DEFAULT_ROUNDS = 8
PROMPT_BYTES = 1024 * 1024
MODEL_BYTES = 1024
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "developer_prompt": (str, type(None)),
    "budget": (Budget,),
    "retry": (Retry,),
    "timeouts": (Timeouts,),
    "profile": (Profile, str),
    "max_tool_rounds": (int,),
    "summary": (Summary, type(None)),
}
_OF_CALL = (
    "model",
    "developer_prompt",
    "budget",
    "retry",
    "timeouts",
    "tools",
    "max_tool_rounds",
    "strategy",
    "summary",
)
_OF_STRATEGY = ("name", "most_turns", "select")
_WORDS = {
    "mode": ("strict", "drop", "pass"),
    "partial": ("include", "mark", "leave_out"),
    "unsupported": ("raise", "placeholder"),
}


class CallOptions(RequestParams, total=False):
    """What one call may set: these, and every request parameter. Whatever it does not set is the chat's, then the kit's."""

    model: str
    developer_prompt: str | None
    """Sent with this call in place of the chat's; None sends none."""
    budget: Budget
    retry: Retry
    timeouts: Timeouts
    tools: Sequence[decorator.ToolLike]
    """Typed functions, `Tool`s or the API's own dicts."""
    max_tool_rounds: int
    """How often, at most, the model's calls of tools are run and their results sent back (8); 0 runs none."""
    strategy: Strategy
    """What of the history is sent."""
    summary: Summary | None
    """Who sums up what falls out of the window; None nobody."""


@dataclass(frozen=True, slots=True)
class Options:
    """What may be set on a kit, a chat or a call. `UNSET` is "not given"; None is a value."""

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

    def __post_init__(self) -> None:
        if not self.params and all(getattr(self, name) is UNSET for name in _FIELDS):
            return
        object.__setattr__(self, "params", validate_params(self.params))
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if value is not UNSET and not isinstance(value, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise SettingsError(name, f"must be {wanted.replace('NoneType', 'None')}, not {value!r}")
        for name, words in _WORDS.items():
            value = getattr(self, name)
            if value is not UNSET and value not in words:
                raise SettingsError(name, f"must be one of {', '.join(words)}, not {value!r}")
        if isinstance(self.developer_prompt, str):
            validate_text("developer_prompt", self.developer_prompt, limit=PROMPT_BYTES, setting="a fixed limit")
        if self.model == "":
            raise SettingsError("model", "is empty")
        if isinstance(self.model, str):
            validate_text("model", self.model, limit=MODEL_BYTES, setting="a fixed limit")
        if self.counter is not UNSET and not (hasattr(self.counter, "count") and hasattr(self.counter, "name")):
            raise SettingsError("counter", f"must have `count(text) -> int` and a `name`, not {self.counter!r}")
        if self.strategy is not UNSET and not all(hasattr(self.strategy, name) for name in _OF_STRATEGY):
            raise SettingsError("strategy", f"must have {', '.join(_OF_STRATEGY)}, not {self.strategy!r}")
        if isinstance(self.summary, Summary):
            validate_params(self.summary.params)
            validate_text("Summary.prompt", self.summary.prompt, limit=PROMPT_BYTES, setting="a fixed limit")
        if isinstance(self.max_tool_rounds, bool) or (
            not isinstance(self.max_tool_rounds, Unset) and self.max_tool_rounds < 0
        ):
            raise SettingsError("max_tool_rounds", f"must be 0 (never run a tool) or more, not {self.max_tool_rounds}")

    def over(self, below: Options) -> Options:
        """Return these options, with `below` wherever nothing was given."""
        merged = object.__new__(Options)  # its parts were checked one by one: once, not with every turn
        for name in _FIELDS:
            own = getattr(self, name)
            object.__setattr__(merged, name, getattr(below, name) if own is UNSET else own)
        both = self.params and below.params
        params = validate_params({**below.params, **self.params}) if both else self.params or below.params
        object.__setattr__(merged, "params", params)
        return merged

    def to_json(self) -> str | None:
        """Return what a chat stores of its own settings: model, developer prompt and parameters."""
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


_FIELDS = tuple(each.name for each in fields(Options) if each.name != "params")
NO_OPTIONS = Options()
"""What a call sets that sets nothing."""


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Everything one request needs to know, settled."""

    model: str
    provider: str
    """Who answers: the profile's provider, else the server's host."""
    developer_prompt: str | None
    profile: Profile
    builder: ContextBuilder
    retry: Retry
    timeouts: Timeouts
    mode: Mode
    params: RequestParams = field(repr=False)
    unsupported: Unsupported
    tools: Mapping[str, Tool]
    wire_tools: tuple[dict[str, Any], ...]
    max_tool_rounds: int
    response_model: Any = None
    """What the reply is parsed into, when `response_format` was a type."""
    schema_instructions: str | None = None
    summary: Summary | None = None

    @property
    def instructions(self) -> str | None:
        """The developer prompt as it is sent: with the schema in words, for servers that take none."""
        return "\n\n".join(filter(None, (self.developer_prompt, self.schema_instructions))) or None

    @property
    def counter(self) -> Counter:
        return self.builder.counter

    @property
    def kept_free(self) -> int:
        """What is kept free for a summary."""
        return 0 if self.summary is None else summary_reserve(self.counter, self.summary.max_tokens)

    @property
    def reply_tokens(self) -> int:
        """What is kept free for the reply: the request's own cap, else the budget's reserve."""
        given = self.params
        cap = given.get("max_output_tokens") or given.get("max_completion_tokens") or given.get("max_tokens")
        return cap or self.builder.reply_tokens


def to_options(given: CallOptions) -> Options:
    """Return what a call was given as options. Raises: SettingsError."""
    if not given:
        return NO_OPTIONS
    values: dict[str, Any] = dict(given)
    own: dict[str, Any] = {name: values.pop(name) for name in _OF_CALL if name in values}
    return Options(**{**own, "tools": to_tools(own.get("tools", UNSET))}, params=cast("RequestParams", values))


def to_tools(given: Sequence[decorator.ToolLike] | Unset) -> tuple[Tool, ...] | Unset:
    """Return what was given as tools as `Tool`s. Raises: SettingsError for a function that cannot be one."""
    return given if isinstance(given, Unset) else decorator.to_tools(given)


def settle(options: Options, base_url: str) -> ResolvedOptions:
    """Return the plan that `options` amount to. Raises: SettingsError when no model was named anywhere."""
    if isinstance(options.model, Unset):
        raise SettingsError("model", 'no model was named: pass model="..." to Convokit or set CONVOKIT_MODEL')
    profile = _profile(options, options.model, base_url)
    builder = ContextBuilder(
        budget=_given(options.budget, Budget()),
        profile=profile,
        counter=_given(options.counter, None),
        partial=_given(options.partial, "include"),
        strategy=_given(options.strategy, None),
    )
    params, response_model, instructions = _formatted(options.params, profile)
    tools = _given(options.tools, ())
    return ResolvedOptions(
        model=options.model,
        provider=profile.provider if profile.provider != "generic" else urlsplit(base_url).hostname or "generic",
        developer_prompt=_given(options.developer_prompt, None),
        profile=profile,
        builder=builder,
        retry=_given(options.retry, Retry()),
        timeouts=_given(options.timeouts, Timeouts()),
        mode=_given(options.mode, "drop"),
        params=params,
        unsupported=_given(options.unsupported, "raise"),
        tools={tool.name: tool for tool in tools},
        wire_tools=tuple(tool.as_wire() for tool in tools),
        max_tool_rounds=_given(options.max_tool_rounds, DEFAULT_ROUNDS),
        response_model=response_model,
        schema_instructions=instructions,
        summary=_given(options.summary, None),
    )


def _formatted(params: RequestParams, profile: Profile) -> tuple[RequestParams, Any, str | None]:
    """Return the parameters with the API's own response_format, the type it stands for, and the schema in words."""
    given = params.get("response_format")
    if given is None:
        return params, None, None
    form, instructions = structured_output.build_response_format(given, profile)
    rest = {name: value for name, value in params.items() if name != "response_format"}
    if form is not None:
        rest["response_format"] = form
    model = None if isinstance(given, Mapping) else given
    return cast("RequestParams", rest), model, instructions


def _given(value: Value | Unset, default: Value) -> Value:
    return default if isinstance(value, Unset) else value


def _profile(options: Options, model: str, base_url: str) -> Profile:
    if isinstance(options.profile, Profile):
        return options.profile
    return resolve_profile(model, base_url, name=None if isinstance(options.profile, Unset) else options.profile)
