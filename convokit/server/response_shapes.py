"""Convert between the Responses API, as clients speak it, and turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from convokit import Reply, Usage
from convokit.server.api_ids import format_conversation_id, format_response_id
from convokit.server.refusals import Refusal, unsupported

_PASSED = (
    "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
    "parallel_tool_calls",
)  # fmt: skip
"""The fields that are sent on as they are."""
_READ = (
    "model", "input", "instructions", "conversation", "previous_response_id", "store", "stream", "stream_options",
    "tools", "tool_choice", "text", "reasoning", "max_output_tokens", "top_logprobs", "truncation", "metadata", "include",
    "background", "max_tool_calls",
)  # fmt: skip
"""The fields that the gateway reads itself."""
_ECHOED = (
    "previous_response_id", "truncation", "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key",
    "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "service_tier", "tool_choice", "reasoning", "text",
    "metadata",
)  # fmt: skip
"""The fields that a response repeats from its request."""
_DEFAULTS: dict[str, Any] = {
    "previous_response_id": None,
    "truncation": "disabled",
    "max_output_tokens": None,
    "max_tool_calls": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_logprobs": 0,
    "parallel_tool_calls": True,
    "service_tier": "default",
    "tool_choice": "auto",
    "metadata": {},
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def read_options(body: Mapping[str, Any], forward: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of the call. None of them becomes a setting of the conversation. Raises: Refusal."""
    extra: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _READ or name in _PASSED:
            continue
        if name not in forward:
            raise Refusal(f"Unsupported parameter: '{name}'.", code="unsupported_parameter", param=name)
        extra[name] = value
    options: dict[str, Any] = {name: body[name] for name in _PASSED if body.get(name) is not None}
    tools = _read_tools(body.get("tools"))
    if tools:
        options["tools"] = tools
        if body.get("tool_choice") is not None:
            options["tool_choice"] = _read_tool_choice(body["tool_choice"])
    else:
        options.pop("parallel_tool_calls", None)
    text, reasoning = _read_object(body, "text"), _read_object(body, "reasoning")
    format_ = _read_object(text, "format")
    if format_.get("type") == "json_schema":
        schema = {name: value for name, value in format_.items() if name != "type" and value is not None}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif format_.get("type") == "json_object":
        options["response_format"] = {"type": "json_object"}
    more = {
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
        "max_output_tokens": body.get("max_output_tokens"),
    }
    options |= {name: value for name, value in more.items() if value is not None}
    if body.get("top_logprobs"):
        raise unsupported("top_logprobs", "log probabilities are not kept: ask for them by a chat completion")
    if extra:
        options["extra_body"] = extra
    return options


def _read_object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise Refusal(f"{name}: must be an object", param=name, code="invalid_type")
    return value or {}


def _read_tools(given: Any) -> list[dict[str, Any]]:
    """Return the function tools in the shape of Chat Completions."""
    if given is not None and not (isinstance(given, list) and all(isinstance(tool, dict) for tool in given)):
        raise Refusal("tools: must be a list of objects", param="tools", code="invalid_type")
    tools = []
    for number, tool in enumerate(given or ()):
        if tool.get("type") != "function":
            raise unsupported(f"tools[{number}].type", f"{tool.get('type')!r} runs on the servers of OpenAI only")
        names = ("name", "description", "parameters", "strict")
        tools.append(
            {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}
        )
    return tools


def _read_tool_choice(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type") == "function":
        return {"type": "function", "function": {"name": given.get("name")}}
    return given


def make_echo(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be kept with the turn, so that its response can be read later.

    Instructions and tools are not among it: they are stored with the call that they were sent with.
    """
    echo = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    echo["created_at"] = int(time.time())
    if isinstance(body.get("instructions"), str):
        echo["instructions_chars"] = len(body["instructions"])
    for name in ("background", "store"):
        if isinstance(body.get(name), bool):
            echo[name] = body[name]
    echo["conversation"] = body.get("conversation") is not None
    return echo


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """The response of a turn without its output: the fields that repeat the request."""

    model: str
    echo: Mapping[str, Any]
    instructions: str | None
    tools: Sequence[Mapping[str, Any]]
    """Function tools in the shape of Chat Completions."""
    conversation_id: UUID | None = None
    turn_id: UUID | None = None

    @classmethod
    def from_request(cls, body: Mapping[str, Any], options: Mapping[str, Any], model: str) -> ResponseShape:
        """Return the shape of a new response."""
        instructions = body.get("instructions") if isinstance(body.get("instructions"), str) else None
        return cls(model, make_echo(body), instructions, options.get("tools", ()))

    def with_turn(self, conversation_id: UUID, turn_id: UUID) -> ResponseShape:
        """Return the shape with the ids of its turn."""
        return replace(self, conversation_id=conversation_id, turn_id=turn_id)

    @property
    def id(self) -> str:
        """The id of the response."""
        assert self.conversation_id is not None
        assert self.turn_id is not None
        return format_response_id(self.conversation_id, self.turn_id)

    def name_item(self, prefix: str) -> str:
        """Return the id of an item of the response."""
        return f"{prefix}_{self.id.removeprefix('resp_')}"

    def format_reply(self, reply: Reply, output: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Return the status of a saved reply, and the response object with these items."""
        reason = _INCOMPLETE.get(reply.finish_reason or "")
        status = "completed" if reason is None else "incomplete"
        completed_at = int(reply.message.created_at.timestamp())
        response = self.format(status, output=output, usage=reply.usage, incomplete=reason, completed_at=completed_at)
        return status, response

    def format(
        self,
        status: str,
        *,
        output: Sequence[Mapping[str, Any]] = (),
        usage: Usage | None = None,
        error: Mapping[str, str] | None = None,
        incomplete: str | None = None,
        completed_at: int | None = None,
    ) -> dict[str, Any]:
        """Return the response object. Fields that other schemas require are there in every state."""
        values = {name: self.echo.get(name, default) for name, default in _DEFAULTS.items()}
        reasoning = self.echo.get("reasoning") or {}
        text = {name: value for name, value in (self.echo.get("text") or {}).items() if value is not None}
        response = {
            "id": self.id,
            "object": "response",
            "created_at": self.echo["created_at"],
            "status": status,
            "completed_at": completed_at,
            "error": error,
            "incomplete_details": None if incomplete is None else {"reason": incomplete},
            "model": self.model,
            "output": list(output),
            "usage": format_usage(usage),
            "instructions": self.instructions,
            "tools": [_format_tool(tool) for tool in self.tools],
            "text": {"format": {"type": "text"}, **text},
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "background": bool(self.echo.get("background")),
            "store": self.echo.get("store") is not False,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **values,
        }
        if self.echo.get("conversation") and self.conversation_id is not None:
            response["conversation"] = {"id": format_conversation_id(self.conversation_id)}
        return response


def _format_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    facts = {name: function.get(name) for name in ("name", "description", "parameters")}
    return {"type": "function", **facts, "strict": bool(function.get("strict"))}


def format_usage(usage: Usage | None) -> dict[str, Any]:
    """Return token counts in the shape of the API. Unknown counts are 0."""
    counts = usage or Usage()
    prompt, completion = counts.prompt_tokens or 0, counts.completion_tokens or 0
    return {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": prompt + completion,
        "input_tokens_details": {
            "cached_tokens": counts.cached_tokens or 0,
            "cache_write_tokens": counts.cache_write_tokens or 0,
        },
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0},
    }
