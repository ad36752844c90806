"""Render the body of a request.

Every request is rendered here, also when a replay renders it again. The same arguments always give the same bytes: compact
JSON in UTF-8 with non-ASCII characters as they are. Unset parameters are absent, and no parameter is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile
from convokit.domain.reply import Change
from convokit.errors import InvalidInput, ModelError, SettingsError
from convokit.wire.headers import validate_headers

RENDERER = 2
"""The version of the rendered bytes, stored with every request. A change of the bytes for the same arguments raises it.

- 1: arguments of tool calls are sent as they are stored.
- 2: arguments of tool calls are always a JSON object.
"""
Mode = Literal["strict", "drop", "pass"]
"""The treatment of a parameter that the model is known to refuse: raise, leave out and report, or send."""

CAPS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
ORDER = (
    "stream",
    "stream_options",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "stop",
    "seed",
    "reasoning_effort",
    "verbosity",
    "response_format",
    "modalities",
    "audio",
    "prediction",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "web_search_options",
    "moderation",
    "service_tier",
    "store",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
"""Every key of a body after `model` and `messages`, in the order in which they are sent."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_STREAM_OPTIONS = ("include_usage", "include_obfuscation")
_SENT_ELSEWHERE = frozenset({*_STREAM_OPTIONS, "api_metadata", "extra_body", "extra_headers"})
_PARAMETER_NAMES = {"metadata": "api_metadata"}  # the API's name: the name in RequestParams
_UNSUPPORTED_CODES = frozenset({"unsupported_parameter", "unsupported_value"})


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request that is ready to be sent."""

    body: dict[str, Any] = field(repr=False)
    data: bytes = field(repr=False)
    """The exact bytes of the body."""
    changes: tuple[Change, ...]
    """The parameters that are not sent as they were given."""
    headers: dict[str, str] = field(repr=False)
    """The caller's `extra_headers`."""


def render_request(
    *,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    params: RequestParams,
    profile: Profile,
    stream: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    mode: Mode = "drop",
) -> RenderedRequest:
    """Render a request.

    Args:
        model: The model's name, sent as it is.
        messages: Messages in the shape that the server accepts.
        params: Valid request parameters.
        profile: The known properties of the model and its server.
        stream: Whether the reply is streamed.
        tools: Tools in the API's shape.
        mode: The treatment of a parameter that the model is known to refuse: "strict" raises SettingsError, "drop" leaves it
            out and reports a Change, "pass" sends it. Parameters that the profile does not know are always sent.

    Raises: InvalidInput if there are no messages, or one cannot be encoded; SettingsError for a parameter that the model
        refuses, that cannot be encoded, or that contradicts another one.
    """
    if not model:
        raise SettingsError("model", "is missing")
    if not messages:
        raise InvalidInput("messages", "is empty")
    adapter = _ParameterAdapter(profile, mode, has_tools=bool(tools))
    values = adapter.adapt(params, messages)
    if tools:
        values["tools"] = [dict(tool) for tool in tools]
    if stream:
        values["stream"] = True
        options = {"include_usage": True} if params.get("include_usage", profile.stream_usage) else {}
        if "include_obfuscation" in params:
            options["include_obfuscation"] = params["include_obfuscation"]
        if options:
            values["stream_options"] = options
    body: dict[str, Any] = {"model": model, "messages": list(messages)}
    body |= {key: values[key] for key in ORDER if key in values}
    body |= params.get("extra_body", {})  # last, so that it can replace every key
    headers = validate_headers(params.get("extra_headers", {}))
    return RenderedRequest(body, encode_body(body), tuple(adapter.changes), headers)


def encode_body(body: dict[str, Any]) -> bytes:
    """Return a body as bytes. Raises: SettingsError or InvalidInput, which name the first key that is not valid JSON."""
    try:
        return _ENCODER.encode(body).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError, for a lone surrogate, is a ValueError
        pass
    for key, value in body.items():
        problem = _find_encoding_problem(value)
        if problem:
            raise InvalidInput("messages", problem) if key == "messages" else SettingsError(str(key), problem)
    raise SettingsError("extra_body", "has a key that is not text")


def _find_encoding_problem(value: Any) -> str:
    try:
        _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"contains a lone surrogate (U+{ord(error.object[error.start]):04X})"
    except TypeError:
        return "contains a value that is not JSON serializable"
    except ValueError:
        return "contains NaN, an infinite number, or itself"
    except RecursionError:
        return "is nested too deeply"
    return ""


def drop_parameter(params: RequestParams, error: ModelError) -> RequestParams | None:
    """Return the parameters without the one that the server reported as unsupported; None if it named none of them.

    Each result has one parameter less, so a caller that repeats the request after each such error comes to an end.
    """
    if error.code not in _UNSUPPORTED_CODES or not error.param:
        return None
    name = error.param.partition(".")[0].partition("[")[0]
    if name == "stream_options":
        return {**params, "include_usage": False} if params.get("include_usage", True) else None
    names = CAPS if name in CAPS else (_PARAMETER_NAMES.get(name, name),)
    kept = {key: value for key, value in params.items() if key not in names}
    extra = params.get("extra_body", {})
    if name in extra:
        kept["extra_body"] = {key: value for key, value in extra.items() if key != name}
    return None if kept == params else cast("RequestParams", kept)


class _ParameterAdapter:
    """Adapt parameters to a model, and record the changes."""

    def __init__(self, profile: Profile, mode: Mode, *, has_tools: bool) -> None:
        self.profile = profile
        self.mode = mode
        self.has_tools = has_tools
        self.changes: list[Change] = []

    def adapt(self, params: RequestParams, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        effort = self.resolve_effort(params)
        for name, value in params.items():
            if name in CAPS:
                self.add_output_cap(name, cast("int", value), values)
            elif name not in _SENT_ELSEWHERE and self.is_sent(name, value, effort):
                values[name] = value
        if "api_metadata" in params:
            values["metadata"] = params["api_metadata"]
        if "response_format" in values:
            self.adapt_response_format(values, messages)
        if self.has_tools and self.profile.tools_need_effort_none and effort != "none" and self.mode == "strict":
            raise SettingsError("tools", f"{self.profile.name} calls tools only with reasoning_effort='none'")
        return values

    def resolve_effort(self, params: RequestParams) -> str | None:
        """Return the reasoning effort of this request, or None if it is not known."""
        effort = params.get("reasoning_effort")
        efforts = self.profile.efforts
        refused = "reasoning_effort" in self.profile.rejects or (efforts is not None and effort not in efforts)
        return self.profile.default_effort if effort is None or (refused and self.mode == "drop") else effort

    def is_sent(self, name: str, value: Any, effort: str | None) -> bool:
        profile = self.profile
        # The API answers 400 if a request has these two and no tools.
        if name in ("tool_choice", "parallel_tool_calls") and not self.has_tools:
            self.changes.append(Change(parameter=name, action="dropped", reason="the request has no tools"))
            return False
        problem = ""
        if name in profile.rejects:
            problem = f"{profile.name} does not accept it"
        elif name in profile.rejects_unless_effort_none and effort not in ("none", None):
            problem = f"{profile.name} accepts it only with reasoning_effort='none', not {effort!r}"
        elif name == "reasoning_effort" and profile.efforts is not None and value not in profile.efforts:
            problem = f"{profile.name} accepts {', '.join(profile.efforts)}, not {value!r}"
        elif name == "n" and value > profile.max_n:
            problem = f"{profile.name} accepts at most {profile.max_n}"
        elif name == "tool_choice":
            problem = self.find_tool_choice_problem(value)
        return not problem or self.keep_refused(name, problem)

    def find_tool_choice_problem(self, value: Any) -> str:
        forms = self.profile.tool_choice_forms
        kind = value.get("type") if isinstance(value, Mapping) else None
        if forms == "none" and value != "auto":
            return f"{self.profile.name} ignores it"
        if forms == "functions" and kind not in (None, "function"):
            return f"{self.profile.name} accepts none, auto, required and a function by name, not {kind!r}"
        return ""

    def add_output_cap(self, name: str, value: int, values: dict[str, Any]) -> None:
        """Add the limit of the reply's length under the name that the server knows."""
        # The server's own name is never refused: OpenRouter accepts max_tokens for models whose own server rejects it.
        server_name: str = self.profile.output_cap
        if self.mode == "pass" and name != "max_output_tokens":
            server_name = name
        if name not in ("max_output_tokens", server_name):
            reason = f"{self.profile.name} accepts {server_name}"
            if self.mode == "strict" and name in self.profile.rejects:
                raise SettingsError(name, reason)
            self.changes.append(Change(parameter=name, action="renamed", reason=reason))
        values[server_name] = value

    def adapt_response_format(self, values: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        response_format = values["response_format"]
        if not isinstance(response_format, Mapping):
            problem = f"must be the API's own object (a dict), not {type(response_format).__name__}"
            raise SettingsError("response_format", problem)
        kind = response_format.get("type")
        if self.mode == "pass":
            return
        if kind == "json_schema" and not self.profile.json_schema:
            problem = f"{self.profile.name} does not accept a schema"
            if self.mode == "drop" and self.profile.json_object and has_json_word(messages):
                values["response_format"] = {"type": "json_object"}
                reason = f"{problem}; sent as json_object"
                self.changes.append(Change(parameter="response_format", action="changed", reason=reason))
            elif not self.keep_refused("response_format", problem):
                del values["response_format"]
        elif kind == "json_object" and not self.profile.json_object:
            if not self.keep_refused("response_format", f"{self.profile.name} does not accept json_object"):
                del values["response_format"]
        elif kind == "json_object" and not has_json_word(messages):
            raise SettingsError("response_format", "json_object needs the word JSON somewhere in the messages")

    def keep_refused(self, name: str, problem: str) -> bool:
        """Apply the mode to a parameter that the model refuses, and return whether it is sent."""
        if self.mode == "strict":
            raise SettingsError(name, problem)
        if self.mode == "pass":
            return True
        self.changes.append(Change(parameter=name, action="dropped", reason=problem))
        return False


def has_json_word(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the messages contain the word JSON. The API refuses json_object without it."""
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, (list, tuple)) else [content]
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str) and "json" in text.lower():
                return True
    return False
