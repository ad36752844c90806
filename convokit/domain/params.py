"""Define and validate the request parameters of the Chat Completions API.

`RequestParams` types the keywords of `chat.send(..., temperature=0.2)` and validates them at run time. A parameter that is not
given is not sent. `max_output_tokens` limits the reply for every model: the profile sends it as `max_completion_tokens` or as
`max_tokens`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from convokit.domain.argument_names import describe_unknown_argument
from convokit.domain.text import to_plain_json
from convokit.errors import InvalidInput, SettingsError

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Cap = Annotated[int, Field(ge=1, strict=True)]
MAX_PARAM_DEPTH = 64
"""Levels of nested JSON. A response schema of the ten levels that the API allows needs thirty."""
OUTPUT_CAPS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""The names of the largest number of tokens of a reply. One request has one of them."""
Text64 = Annotated[str, Field(max_length=64)]


class CommonParams(TypedDict, total=False):
    """The request parameters, except `response_format`: in a chat's methods it decides the type of the reply."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # read by pydantic, not a key

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    frequency_penalty: Penalty
    presence_penalty: Penalty
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]]
    logprobs: bool
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)]
    max_output_tokens: Cap
    max_completion_tokens: Cap
    max_tokens: Cap
    n: Annotated[int, Field(ge=1, le=128, strict=True)]
    stop: str | Annotated[list[str], Field(min_length=1, max_length=4)]
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    verbosity: Literal["low", "medium", "high"]
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"]
    store: bool
    api_metadata: dict[Text64, Annotated[str, Field(max_length=512)]]
    """The API's own metadata, at most 16 pairs, as a default of a kit or chat; a call may also write `metadata`.

    Needs `store=True`. It is not the conversation's metadata."""
    modalities: list[Literal["text", "audio"]]
    audio: dict[str, Any]
    prediction: dict[str, Any]
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    web_search_options: dict[str, Any]
    moderation: dict[str, Any]
    prompt_cache_key: str
    prompt_cache_options: dict[str, Any]
    prompt_cache_retention: Literal["in_memory", "24h"]
    safety_identifier: Text64
    user: str
    include_usage: bool
    """Whether a stream asks for its token counts. The default is True if the profile supports it."""
    include_obfuscation: bool
    extra_body: dict[str, Any]
    """Merged into the request body last. It overrides every other parameter."""
    extra_headers: dict[str, str]


class RequestParams(CommonParams, total=False):
    """The request parameters of one API call, as in the API's own documentation."""

    response_format: Any
    """A type that the reply is parsed into, or the API's own object."""


@functools.cache
def _build_adapter() -> TypeAdapter[RequestParams]:
    return TypeAdapter(RequestParams)


def validate_params(given: Mapping[str, Any], *, are_all: bool = True) -> RequestParams:
    """Check the range of each parameter, and their combinations. Raises: SettingsError for the first invalid one.

    `are_all` is False for the parameters of one level (kit, chat or call), which others complete. Their combinations are
    checked later by `check_combinations`.
    """
    if not given:
        return {}
    try:
        params = _build_adapter().validate_python(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(step) for step in first["loc"]) or "parameters"
        problem = (
            describe_unknown_argument(name, tuple(RequestParams.__annotations__))
            if first["type"] == "extra_forbidden"
            else first["msg"]
        )
        raise SettingsError(name, problem) from None
    if are_all:
        check_combinations(params)
    return cast("RequestParams", {name: _to_plain_value(name, value) for name, value in params.items()})


def _to_plain_value(name: str, value: Any) -> Any:
    # Headers are not part of the recorded request. A class given as `response_format` is converted to a schema later.
    if name == "extra_headers" or (name == "response_format" and not isinstance(value, Mapping)):
        return value
    try:
        return to_plain_json(name, value, max_depth=MAX_PARAM_DEPTH, max_number=2**64)
    except InvalidInput as error:
        raise SettingsError(error.field, str(error).removeprefix(f"{error.field}: ")) from None


def check_combinations(params: RequestParams) -> None:
    """Raise SettingsError for a parameter without another one that it needs, and for two that exclude each other."""
    if "top_logprobs" in params and not params.get("logprobs"):
        raise SettingsError("top_logprobs", "needs logprobs=True")
    if len(params.get("api_metadata", {})) > 16:
        raise SettingsError("api_metadata", "the API's own metadata (metadata= of a call) may have at most 16 pairs")
    if "api_metadata" in params and not params.get("store"):
        raise SettingsError("api_metadata", "the API's own metadata (metadata= of a call) needs store=True")
    if "audio" in params and "audio" not in params.get("modalities", ()):
        raise SettingsError("audio", 'needs modalities=["text", "audio"]')
    caps = [name for name in OUTPUT_CAPS if name in params]
    if len(caps) > 1:
        raise SettingsError(caps[1], f"sets the same limit as {caps[0]}: pass one of them")
