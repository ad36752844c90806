"""Suggest the right name for an unknown argument."""

from __future__ import annotations

import difflib

EVERYWHERE = ("model", "developer_prompt", "budget", "tools", "strategy", "summary")
"""Arguments of `Convokit`, of `kit.chat` and of a call."""
KIT_ARGUMENTS = (
    "database",
    "base_url",
    "api_key",
    "tenant",
    "limits",
    "profile",
    "counter",
    "mode",
    "partial",
    "unsupported",
    "durability",
    "search",
    "http_client",
    "read_only",
    "observers",
)
CHAT_ARGUMENTS = ("key", "id", "branch", "subject", "title")
CALL_ARGUMENTS = (
    "tool_results",
    "passages",
    "after",
    "expect",
    "messages",
    "window",
    "start",
    "anchor",
    "turn_metadata",
    "on_busy",
    "idempotency_key",
    "on_disconnect",
)
KIT_AND_CALL_ARGUMENTS = ("retry", "timeouts", "max_tool_rounds")
_PLACES = {
    **dict.fromkeys(KIT_ARGUMENTS, "Convokit(...)"),
    **dict.fromkeys(CHAT_ARGUMENTS, "kit.chat(...)"),
    **dict.fromkeys(CALL_ARGUMENTS, "send(...) and stream(...)"),
    **dict.fromkeys(KIT_AND_CALL_ARGUMENTS, "Convokit(...), send(...) and stream(...)"),
}
_OTHER_NAMES = {
    "observers": ("observer", "callbacks", "callback_manager", "hooks", "event_listeners"),
    "developer_prompt": (
        "system_prompt",
        "system",
        "system_message",
        "system_instruction",
        "instructions",
        "preamble",
        "developer_message",
    ),
    "max_output_tokens": (
        "max_new_tokens",
        "max_length",
        "maxTokens",
        "num_predict",
        "n_predict",
        "max_tokens_to_sample",
    ),
    "stop": ("stop_sequences", "stop_words", "stop_tokens"),
    "tools": ("functions", "tool_list"),
    "tool_results": ("tool_outputs", "function_results"),
    "tool_choice": ("function_call",),
    "max_tool_rounds": ("max_steps", "max_iterations", "max_turns", "max_tool_calls"),
    "response_format": (
        "response_model",
        "response_schema",
        "output_type",
        "output_schema",
        "result_type",
        "text_format",
        "json_schema",
        "schema",
        "format",
    ),
    "reasoning_effort": ("reasoning", "effort", "thinking", "thinking_level"),
    "extra_headers": ("headers", "default_headers"),
    "extra_body": ("extra_params", "extra", "model_kwargs", "additional_kwargs"),
    "timeouts": ("timeout", "request_timeout", "read_timeout"),
    "retry": ("max_retries", "retries", "num_retries"),
    "passages": ("context", "documents", "sources", "retrieved"),
    "model": ("model_name", "model_id", "engine", "deployment", "deployment_id", "azure_deployment"),
    "base_url": ("api_base", "openai_api_base", "azure_endpoint", "endpoint", "server"),
    "api_key": ("openai_api_key", "azure_api_key", "token", "api_token"),
    "http_client": ("client", "http_async_client", "session", "proxies", "proxy", "verify"),
    "database": ("db", "url", "database_url", "connection_string", "dsn"),
    "key": ("session_id", "conversation_id", "thread_id", "conversation", "chat_id"),
    "subject": ("user_id", "owner"),
    "budget": ("context_window", "num_ctx", "context_length", "max_input_tokens"),
    "idempotency_key": ("idempotency", "request_id", "dedupe_key"),
    "title": ("name",),
}
"""Names that other libraries use, under the name of convokit."""
_ADVICE = {
    "metadata": "pass api_metadata for the API's own metadata, or kit.chat(metadata=...) for the conversation's",
    "stream": "call chat.stream(...) for a reply that comes in chunks",
    "input": "pass the message as the first argument of send",
    "prompt": "pass the message as the first argument of send, or instructions as developer_prompt",
    "message": "pass the message as the first argument of send",
}
_REQUEST_OF_ANOTHER_API = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "typical_p",
    "mirostat",
    "guided_json",
)
_CLOSE = 0.75
"""The similarity from which a name counts as misspelled, between 0 and 1."""


def describe_unknown_argument(name: str, parameters: tuple[str, ...]) -> str:
    """Return what to do about an argument that no request parameter, of which `parameters` are the names, has."""
    if name in _ADVICE:
        return f"is unknown here: {_ADVICE[name]}"
    if name in _PLACES or name in EVERYWHERE:
        return f"is unknown here: it is an argument of {_PLACES.get(name, 'Convokit, kit.chat and send')}"
    if name in _REQUEST_OF_ANOTHER_API:
        return f"is no parameter of the API; some servers accept it: pass extra_body={{{name!r}: ...}}"
    right = next((ours for ours, others in _OTHER_NAMES.items() if name in others), None)
    if right is None:
        known = (*parameters, *EVERYWHERE, *_PLACES)
        right = next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)), None)
    if right is None:
        return "unknown request parameter: check the spelling, or pass it in extra_body"
    place = f" of {_PLACES[right]}" if right in _PLACES else ""
    return f"unknown request parameter: did you mean {right}{place}?"
