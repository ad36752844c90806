"""The one renderer of requests: what is sent, and what a replay renders again, come from here.

`RENDERER` is stored with every request; whatever changes the bytes for the same arguments raises it. Unset parameters are
absent and nothing is ever null. A parameter that this model is known to refuse is refused here ("strict"), left out and
reported ("drop"), or sent as it is ("pass"); what nobody knows is sent.

The exact bytes of a request body: compact JSON in UTF-8, characters as they are, keys in the order they were given.
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
from convokit.wire.headers import build_endpoint_url, build_headers, validate_headers

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
__all__ = [
    "CAPS",
    "ORDER",
    "RENDERER",
    "Mode",
    "RenderedRequest",
    "build_endpoint_url",
    "build_headers",
    "drop_parameter",
    "render_request",
]

RENDERER = 1
Mode = Literal["strict", "drop", "pass"]

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

_STREAM_OPTIONS = ("include_usage", "include_obfuscation")
_NOT_SENT = frozenset({*_STREAM_OPTIONS, "api_metadata", "extra_body", "extra_headers"})
_OUR_NAMES = {"metadata": "api_metadata"}
_CODES = frozenset({"unsupported_parameter", "unsupported_value"})


def encode_body(body: dict[str, Any]) -> bytes:
    """Return the body as it is sent.

    Raises: SettingsError or InvalidInput naming the first key whose value is no JSON; the value itself is not shown.
    """
    try:
        return _ENCODER.encode(body).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # a lone surrogate is a ValueError too
        pass
    for key, value in body.items():
        problem = _problem(value)
        if problem:
            raise InvalidInput("messages", problem) if key == "messages" else SettingsError(str(key), problem)
    raise SettingsError("extra_body", "has a key that is not text")


def _problem(value: Any) -> str:
    try:
        _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate (U+{ord(error.object[error.start]):04X})"
    except TypeError:
        return "holds a value that JSON does not have"
    except ValueError:
        return "holds a number that is not finite, or itself"
    except RecursionError:
        return "is nested too deeply"
    return ""


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request ready to be sent: `data` are its exact bytes, `changes` what was not sent as it was given."""

    body: dict[str, Any] = field(repr=False)
    data: bytes = field(repr=False)
    changes: tuple[Change, ...]
    headers: dict[str, str] = field(repr=False)


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
    """Return the request for messages that already fit the server (see `messages.for_wire`) and checked parameters.

    Raises: InvalidInput when there are no messages or one cannot be encoded; SettingsError for parameters that cannot go
    together, and in strict mode for those this model refuses.
    """
    if not model:
        raise SettingsError("model", "is missing")
    if not messages:
        raise InvalidInput("messages", "is empty")
    fitting = _Fitting(profile, mode, has_tools=bool(tools))
    values = fitting.values(params, messages)
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
    body |= params.get("extra_body", {})
    return RenderedRequest(
        body, encode_body(body), tuple(fitting.changes), validate_headers(params.get("extra_headers", {}))
    )


def drop_parameter(params: RequestParams, error: ModelError) -> RequestParams | None:
    """Return the parameters without the one that the server said it does not support; None when it named none of them.

    Each result has one parameter fewer, so asking again after every refusal comes to an end.
    """
    if error.code not in _CODES or not error.param:
        return None
    named = error.param.partition(".")[0].partition("[")[0]
    if named == "stream_options":
        return {**params, "include_usage": False} if params.get("include_usage", True) else None
    names = CAPS if named in CAPS else (_OUR_NAMES.get(named, named),)
    kept = {key: value for key, value in params.items() if key not in names}
    extra = params.get("extra_body", {})
    if named in extra:
        kept["extra_body"] = {key: value for key, value in extra.items() if key != named}
    return None if kept == params else cast("RequestParams", kept)


class _Fitting:
    """Fit parameters to a model, and write down what was changed."""

    def __init__(self, profile: Profile, mode: Mode, *, has_tools: bool) -> None:
        self.profile = profile
        self.mode = mode
        self.has_tools = has_tools
        self.changes: list[Change] = []

    def values(self, params: RequestParams, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        effort = self.effort(params)
        for name, value in params.items():
            if name in CAPS:
                self.cap(name, cast("int", value), values)
            elif name not in _NOT_SENT and self.passes(name, value, effort):
                values[name] = value
        if "api_metadata" in params:
            values["metadata"] = params["api_metadata"]
        if "response_format" in values:
            self.response_format(values, messages)
        if self.has_tools and self.profile.tools_need_effort_none and effort != "none" and self.mode == "strict":
            raise SettingsError("tools", f"{self.profile.name} calls tools only with reasoning_effort='none'")
        return values

    def effort(self, params: RequestParams) -> str | None:
        """Return the reasoning effort that this request will have; None when nobody knows."""
        given = params.get("reasoning_effort")
        efforts = self.profile.efforts
        refused = "reasoning_effort" in self.profile.rejects or (efforts is not None and given not in efforts)
        return self.profile.default_effort if given is None or (refused and self.mode == "drop") else given

    def passes(self, name: str, value: Any, effort: str | None) -> bool:
        """Whether a parameter is sent. Raises: SettingsError in strict mode when it is refused."""
        profile = self.profile
        if name in ("tool_choice", "parallel_tool_calls") and not self.has_tools:
            self.changes.append(Change(parameter=name, action="dropped", reason="there are no tools in this request"))
            return False
        problem = ""
        if name in profile.rejects:
            problem = f"{profile.name} does not accept it"
        elif name in profile.rejects_unless_effort_none and effort not in ("none", None):
            problem = f"{profile.name} accepts it only with reasoning_effort='none', not {effort!r}"
        elif name == "reasoning_effort" and profile.efforts is not None and value not in profile.efforts:
            problem = f"{profile.name} knows {', '.join(profile.efforts)}, not {value!r}"
        elif name == "n" and value > profile.max_n:
            problem = f"{profile.name} gives {profile.max_n} at most"
        elif name == "tool_choice":
            problem = self.tool_choice_problem(value)
        return not problem or self.settle(name, problem)

    def tool_choice_problem(self, value: Any) -> str:
        forms = self.profile.tool_choice_forms
        kind = value.get("type") if isinstance(value, Mapping) else None
        if forms == "none" and value != "auto":
            return f"{self.profile.name} takes no notice of it"
        if forms == "functions" and kind not in (None, "function"):
            return f"{self.profile.name} knows none, auto, required and a function by name, not {kind!r}"
        return ""

    def cap(self, name: str, value: int, values: dict[str, Any]) -> None:
        """Send the reply's limit under the name this server knows."""
        known = self.profile.output_cap
        if self.mode == "pass" and name != "max_output_tokens":
            known = name  # type: ignore[assignment]  # the caller's own word
        if name not in ("max_output_tokens", known):
            reason = f"{self.profile.name} takes {known}"
            if self.mode == "strict" and name in self.profile.rejects:
                raise SettingsError(name, reason)
            self.changes.append(Change(parameter=name, action="renamed", reason=reason))
        values[known] = value

    def response_format(self, values: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        form = values["response_format"]
        if not isinstance(form, Mapping):
            raise SettingsError("response_format", "must be the API's own object by now")
        kind = form.get("type")
        if self.mode == "pass":
            return
        if kind == "json_schema" and not self.profile.json_schema:
            problem = f"{self.profile.name} takes no schema"
            if self.mode == "drop" and self.profile.json_object and has_json_word(messages):
                values["response_format"] = {"type": "json_object"}
                self.changes.append(
                    Change(parameter="response_format", action="changed", reason=f"{problem}: json_object")
                )
            elif not self.settle("response_format", problem):
                del values["response_format"]
        elif kind == "json_object" and not self.profile.json_object:
            if not self.settle("response_format", f"{self.profile.name} does not know json_object"):
                del values["response_format"]
        elif kind == "json_object" and not has_json_word(messages):
            raise SettingsError("response_format", "json_object needs the word JSON somewhere in the messages")

    def settle(self, name: str, problem: str) -> bool:
        """Deal with a parameter this model refuses as the mode says; whether it is sent."""
        if self.mode == "strict":
            raise SettingsError(name, problem)
        if self.mode == "pass":
            return True
        self.changes.append(Change(parameter=name, action="dropped", reason=problem))
        return False


def has_json_word(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the word JSON stands anywhere in the messages, which json_object demands."""
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, (list, tuple)) else [content]
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str) and "json" in text.lower():
                return True
    return False
