"""Every request parameter of the Chat Completions API with its documented range, said once.

`RequestParams` is what type checkers see in `chat.send(..., temperature=0.2)` and what is checked at run time. Unset is
absent: there is no default and no null. `max_output_tokens` is the one name for the reply's limit; the profile decides
whether it travels as `max_completion_tokens` or `max_tokens`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from convokit.domain.text import to_plain_json
from convokit.errors import InvalidInput, SettingsError

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Cap = Annotated[int, Field(ge=1, strict=True)]
MAX_PARAM_DEPTH = 64
"""A schema of the ten levels that the API allows needs thirty."""
Text64 = Annotated[str, Field(max_length=64)]


class RequestParams(TypedDict, total=False):
    """The request parameters of one call. See the API's documentation for what each one does."""

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
    """The API's own `metadata` (16 pairs at most), sent only with `store=True`; not the conversation's metadata."""
    modalities: list[Literal["text", "audio"]]
    audio: dict[str, Any]
    prediction: dict[str, Any]
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    response_format: Any
    """A pydantic model class, or the API's own object."""
    web_search_options: dict[str, Any]
    moderation: dict[str, Any]
    prompt_cache_key: str
    prompt_cache_options: dict[str, Any]
    prompt_cache_retention: Literal["in_memory", "24h"]
    safety_identifier: Text64
    user: str
    include_usage: bool
    """Whether a stream asks for its token counts; on by default where the profile supports it."""
    include_obfuscation: bool
    extra_body: dict[str, Any]
    """Merged into the request last, over everything else."""
    extra_headers: dict[str, str]


@functools.cache
def _adapter() -> TypeAdapter[RequestParams]:
    return TypeAdapter(RequestParams)


def validate_params(given: Mapping[str, Any]) -> RequestParams:
    """Return the parameters, each within its documented range and fit to go together.

    Raises: SettingsError naming the first parameter that is not.
    """
    if not given:
        return {}
    try:
        params = _adapter().validate_python(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(step) for step in first["loc"]) or "parameters"
        problem = "there is no such request parameter" if first["type"] == "extra_forbidden" else first["msg"]
        raise SettingsError(name, problem) from None
    _check_together(params)
    return cast("RequestParams", {name: _fit_for_json(name, value) for name, value in params.items()})


def _fit_for_json(name: str, value: Any) -> Any:
    """Return a value that can be sent and recorded. A type given as `response_format` is neither."""
    if name == "extra_headers" or (name == "response_format" and not isinstance(value, Mapping)):
        return value
    try:
        return to_plain_json(name, value, max_depth=MAX_PARAM_DEPTH, max_number=2**64)
    except InvalidInput as error:
        raise SettingsError(error.field, str(error).removeprefix(f"{error.field}: ")) from None


def _check_together(params: RequestParams) -> None:
    if "top_logprobs" in params and not params.get("logprobs"):
        raise SettingsError("top_logprobs", "needs logprobs=True")
    if len(params.get("api_metadata", {})) > 16:
        raise SettingsError("api_metadata", "holds 16 pairs at most")
    if "api_metadata" in params and not params.get("store"):
        raise SettingsError("api_metadata", "is only allowed with store=True")
    if "audio" in params and "audio" not in params.get("modalities", ()):
        raise SettingsError("audio", 'needs modalities=["text", "audio"]')
    caps = [name for name in ("max_output_tokens", "max_completion_tokens", "max_tokens") if name in params]
    if len(caps) > 1:
        raise SettingsError(caps[1], f"says the same as {caps[0]}: give one of them")
