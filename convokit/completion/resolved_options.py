"""Resolve options into the values that one request needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from convokit.completion.options import Options
from convokit.completion.reply_anchors import AnchorFunction
from convokit.context.builder import ContextBuilder, FixedParts
from convokit.context.strategy import compute_window_rule
from convokit.context.summary import summary_reserve
from convokit.domain.params import RequestParams, check_combinations
from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import SettingsError
from convokit.settings import Budget, Retry, Summary, Timeouts, Unset
from convokit.tokens.counter import Counter
from convokit.tools.tool import Tool
from convokit.wire.message_encoding import Unsupported
from convokit.wire.request import Mode
from convokit.wire.structured_output import build_response_format

Value = TypeVar("Value")
DEFAULT_TOOL_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """The settings of one request, complete. The fields from `instructions` on follow from the others."""

    model: str
    provider: str
    """The profile's provider, else the host of the server."""
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
    """The type that the reply is parsed into, when `response_format` was a type."""
    schema_instructions: str | None = None
    """The response schema as text, for servers that take no schema."""
    summary: Summary | None = None
    exact_start: int | None = None
    """The first message of a window that the caller chose; None where the strategy chooses."""
    anchor: AnchorFunction | None = None
    counted: InitVar[FixedParts | None] = None
    """The fixed parts of options with the same prompt, tools and schema, which need not be counted again."""
    instructions: str | None = field(init=False, repr=False)
    """The developer prompt as it is sent: with `schema_instructions`."""
    counter: Counter = field(init=False, repr=False)
    fixed: FixedParts = field(init=False, repr=False)
    """Developer prompt, tools and response schema, counted once for all requests with these options."""
    reply_tokens: int = field(init=False)
    """The tokens kept free for the reply: the request's own cap, else the budget's reserve."""
    summary_reserve: int = field(init=False)
    """The tokens kept free for a summary."""
    window_rule: int = field(init=False)
    """The checksum of the settings that the window's start depends on."""

    def __post_init__(self, counted: FixedParts | None) -> None:
        builder, params = self.builder, self.params
        instructions = "\n\n".join(filter(None, (self.developer_prompt, self.schema_instructions))) or None
        cap = params.get("max_output_tokens") or params.get("max_completion_tokens") or params.get("max_tokens")
        reserve = 0 if self.summary is None else summary_reserve(builder.counter, self.summary.max_tokens)
        rule = compute_window_rule(self.model, builder.counter.name, builder.budget.step_tokens, builder.strategy.name)
        computed = {
            "instructions": instructions,
            "counter": builder.counter,
            "fixed": counted or builder.count_fixed(instructions, self.wire_tools, params.get("response_format")),
            "reply_tokens": cap or builder.reply_tokens,
            "summary_reserve": reserve,
            "window_rule": rule,
        }
        for name, value in computed.items():
            object.__setattr__(self, name, value)


def resolve(options: Options, base_url: str) -> ResolvedOptions:
    """Return `options` with defaults in place. Raises: SettingsError if no model is given."""
    if isinstance(options.model, Unset):
        raise SettingsError("model", 'no model was given: pass model="..." to Convokit or set CONVOKIT_MODEL')
    check_combinations(options.params)
    profile = _find_profile(options, options.model, base_url)
    builder = ContextBuilder(
        budget=_or_default(options.budget, Budget()),
        profile=profile,
        counter=_or_default(options.counter, None),
        partial=_or_default(options.partial, "include"),
        strategy=_or_default(options.strategy, None),
    )
    is_exact = not isinstance(options.window, Unset)
    params, response_model, schema_instructions = _resolve_response_format(options.params, profile)
    tools = _or_default(options.tools, ())
    return ResolvedOptions(
        model=options.model,
        provider=profile.provider if profile.provider != "generic" else urlsplit(base_url).hostname or "generic",
        developer_prompt=_or_default(options.developer_prompt, None),
        profile=profile,
        builder=builder,
        retry=_or_default(options.retry, Retry()),
        timeouts=_or_default(options.timeouts, Timeouts()),
        mode=_or_default(options.mode, "drop"),
        params=params,
        unsupported=_or_default(options.unsupported, "raise"),
        tools={tool.name: tool for tool in tools},
        wire_tools=tuple(tool.as_wire() for tool in tools),
        max_tool_rounds=_or_default(options.max_tool_rounds, DEFAULT_TOOL_ROUNDS),
        response_model=response_model,
        schema_instructions=schema_instructions,
        summary=None if is_exact else _or_default(options.summary, None),
        exact_start=_or_default(options.start, 1) if is_exact else None,
        anchor=_or_default(options.anchor, None),
    )


def _resolve_response_format(params: RequestParams, profile: Profile) -> tuple[RequestParams, Any, str | None]:
    """Return the parameters with the API's own response_format, the type to parse into, and the schema as text."""
    if "response_format" not in params:
        return params, None, None
    given = params["response_format"]
    rest = {name: value for name, value in params.items() if name != "response_format"}
    if given is None:  # a call that overrides the chat's
        return cast("RequestParams", rest), None, None
    response_format, instructions = build_response_format(given, profile)
    if response_format is not None:
        rest["response_format"] = response_format
    model = None if isinstance(given, Mapping) else given
    return cast("RequestParams", rest), model, instructions


def _or_default(value: Value | Unset, default: Value) -> Value:
    return default if isinstance(value, Unset) else value


def _find_profile(options: Options, model: str, base_url: str) -> Profile:
    if isinstance(options.profile, Profile):
        return options.profile
    return resolve_profile(model, base_url, name=None if isinstance(options.profile, Unset) else options.profile)
