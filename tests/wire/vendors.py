"""One reply of each vendor, plain and streamed, in that vendor's shape."""

from __future__ import annotations

from typing import Any

from .vectors import Vendor, as_json, chunk, sse, tool_call

_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
"""Scripted: these replies are read by the parser alone, and answer no request that could be counted."""


def _openai() -> Vendor:
    top: dict[str, Any] = {
        "id": "chatcmpl-C1",
        "created": 1764000000,
        "model": "gpt-6-luna-2026-09-01",
        "service_tier": "default",
    }
    usage = {
        **_USAGE,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": 0},
    }
    message: dict[str, Any] = {"role": "assistant", "content": "Hello, 世界", "refusal": None, "annotations": []}
    plain = {
        **top,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
        "system_fingerprint": None,
    }

    def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        tail = {
            "system_fingerprint": None,
            "choices": [choice],
            "usage": None,
            "obfuscation": "xQ3" * (len(str(delta)) % 5),
        }
        return {**top, "object": "chat.completion.chunk", **tail}

    stream = sse(
        piece({"role": "assistant", "content": "", "refusal": None}),
        *(piece({"content": text}) for text in ("Hel", "lo,", " 世", "界")),
        piece({}, "stop"),
        {**top, "object": "chat.completion.chunk", "choices": [], "usage": usage, "obfuscation": ""},
    )
    return Vendor("openai", as_json(plain), stream, "Hello, 世界")


def _azure() -> Vendor:
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    prompt = [{"prompt_index": 0, "content_filter_results": safe}]
    top: dict[str, Any] = {
        "id": "chatcmpl-A1",
        "created": 1764000000,
        "model": "gpt-6-luna",
        "system_fingerprint": "fp_a",
    }
    message: dict[str, Any] = {"role": "assistant", "content": "Hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "content_filter_results": safe}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": _USAGE, "prompt_filter_results": prompt}
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": prompt}

    def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "content_filter_results": {}, "logprobs": None}
        return {**top, "object": "chat.completion.chunk", "choices": [choice], "usage": None}

    late = {
        "index": 0,
        "finish_reason": None,
        "content_filter_results": safe,
        "content_filter_offsets": {"check_offset": 44},
    }
    stream = sse(
        first,
        piece({"role": "assistant", "content": ""}),
        piece({"content": "Hel"}),
        piece({"content": "lo"}),
        piece({}, "stop"),
        {"id": "", "object": "", "created": 0, "model": "", "choices": [late]},
        {**top, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
    )
    return Vendor("azure", as_json(plain), stream, "Hello", extra={"content_filter_results"})


def _openrouter() -> Vendor:
    top: dict[str, Any] = {
        "id": "gen-1764",
        "provider": "Anthropic",
        "model": "anthropic/claude",
        "created": 1764000000,
    }
    usage = {**_USAGE, "cost": 0.00014, "is_byok": False, "prompt_tokens_details": {"cached_tokens": 0}}
    detail = {"type": "reasoning.text", "text": "Let me see", "signature": "sig", "format": "anthropic-v1", "index": 0}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "reasoning": "Let me see",
        "reasoning_details": [detail],
    }
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "native_finish_reason": "end_turn",
        "logprobs": None,
    }
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": usage}

    def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", **delta}
        native = "end_turn" if finish else None
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": native, "logprobs": None}
        return {**top, "object": "chat.completion.chunk", "choices": [choice], **more}

    def thought(text: str, **more: Any) -> dict[str, Any]:
        shared = {"type": "reasoning.text", "format": "anthropic-v1", "index": 0}
        return {
            "reasoning": text or None,
            "reasoning_details": [{**shared, **({"text": text} if text else {}), **more}],
        }

    stream = sse(
        b": OPENROUTER PROCESSING\n\n",
        piece(thought("Let me ")),
        piece(thought("see")),
        piece(thought("", signature="sig")),
        b": OPENROUTER PROCESSING\n\n",
        piece({"content": "Hel"}),
        piece({"content": "lo"}),
        piece({}, "stop"),
        piece({}, None, usage=usage),
    )
    return Vendor("openrouter", as_json(plain), stream, "Hello", "Let me see", extra={"reasoning", "reasoning_details"})


def _litellm() -> Vendor:
    top: dict[str, Any] = {"id": "chatcmpl-L1", "created": 1764000000, "model": "gpt-6-luna"}
    message: dict[str, Any] = {
        "content": None,
        "role": "assistant",
        "tool_calls": [tool_call("call_L")],
        "function_call": None,
    }
    choice = {"finish_reason": "tool_calls", "index": 0, "message": message}
    plain = {**top, "object": "chat.completion", "system_fingerprint": None, "choices": [choice], "usage": _USAGE}
    pieces = [
        chunk({"role": "assistant", "content": None, "tool_calls": [{**tool_call("call_L", ""), "index": 0}]}, **top),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}, "type": "function"}]}, **top),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}, "type": "function"}]}, **top),
        chunk({}, "tool_calls", **top),
        {**chunk(**top), "usage": _USAGE},
    ]
    return Vendor("litellm", as_json(plain), sse(*pieces), "", calls=1)


def _vllm() -> Vendor:
    top: dict[str, Any] = {"id": "chatcmpl-V1", "created": 1764000000, "model": "Qwen/Qwen3.5"}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "annotations": None,
        "audio": None,
    }
    message |= {"function_call": None, "tool_calls": [], "reasoning": "Hm", "reasoning_content": "Hm"}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    plain = {
        **top,
        "object": "chat.completion",
        "choices": [choice],
        "usage": {**_USAGE, "prompt_tokens_details": None},
    }

    def piece(delta: dict[str, Any], finish: str | None = None, done: int = 0) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"prompt_tokens": 9, "total_tokens": 9 + done, "completion_tokens": done}
        return {**top, "object": "chat.completion.chunk", "choices": [choice], "usage": usage}

    stream = sse(
        piece({"role": "assistant", "content": ""}),
        piece({"reasoning": "Hm", "reasoning_content": "Hm"}, None, 1),
        piece({"content": "Hel"}, None, 2),
        piece({"content": "lo"}, "stop", 3),
        {**top, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
    )
    return Vendor("vllm", as_json(plain), stream, "Hello", "Hm")


def _sglang() -> Vendor:
    top: dict[str, Any] = {"id": "5f0c", "created": 1764000000, "model": "default"}
    message: dict[str, Any] = {"role": "assistant", "content": "Hello", "reasoning_content": None, "tool_calls": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "matched_stop": 151645}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": {**_USAGE, "reasoning_tokens": 0}}

    def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        delta = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None, **delta}
        matched = 151645 if finish else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": matched}
        return {**top, "object": "chat.completion.chunk", "choices": [choice], "usage": None}

    stream = sse(
        piece({"role": "assistant", "content": ""}),
        piece({"content": "Hel"}),
        piece({"content": "lo"}),
        piece({}, "stop"),
        {**top, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
    )
    return Vendor("sglang", as_json(plain), stream, "Hello", extra={"matched_stop"})


def _llamacpp() -> Vendor:
    timings = {"cache_n": 5, "prompt_n": 4, "prompt_ms": 30.9, "predicted_n": 3}
    top: dict[str, Any] = {
        "created": 1764000000,
        "id": "chatcmpl-Q7",
        "model": "gpt-3.5-turbo",
        "system_fingerprint": "b7100",
    }
    message: dict[str, Any] = {"role": "assistant", "reasoning_content": "Hm", "content": "Hello"}
    choice = {"finish_reason": "stop", "index": 0, "message": message}
    plain = {"choices": [choice], **top, "object": "chat.completion", "usage": _USAGE, "timings": timings}

    def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"finish_reason": finish, "index": 0, "delta": delta}
        return {"choices": [choice], **top, "object": "chat.completion.chunk", **more}

    stream = sse(
        b":\n\n",
        piece({"role": "assistant", "content": None}),
        piece({"reasoning_content": "H"}),
        b":\n\n",
        piece({"reasoning_content": "m"}),
        piece({"content": "Hel"}),
        piece({"content": "lo"}),
        piece({}, "stop"),
        {"choices": [], **top, "object": "chat.completion.chunk", "usage": _USAGE, "timings": timings},
    )
    return Vendor("llama.cpp", as_json(plain), stream, "Hello", "Hm", extra={"reasoning_content"})


def _ollama() -> Vendor:
    top: dict[str, Any] = {
        "id": "chatcmpl-417",
        "created": 1764000000,
        "model": "qwen3",
        "system_fingerprint": "fp_ollama",
    }
    call = {**tool_call("call_x1"), "index": 0}
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning": "Hm", "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": _USAGE}

    def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"role": "assistant", "content": "", **delta}, "finish_reason": finish}
        return {**top, "object": "chat.completion.chunk", "choices": [choice]}

    stream = sse(
        piece({"reasoning": "Hm"}),
        piece({"tool_calls": [call]}),
        piece({}, "tool_calls"),
    )
    none = (None, None)
    return Vendor("ollama", as_json(plain), stream, "", "Hm", 1, stream_usage=none, extra={"reasoning"})


def _lmstudio() -> Vendor:
    top: dict[str, Any] = {"id": "chatcmpl-lm", "created": 1764000000, "model": "gemma", "system_fingerprint": "gemma"}
    message: dict[str, Any] = {"role": "assistant", "content": "Hello", "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": _USAGE, "stats": {}}
    pieces = [
        chunk({"role": "assistant", "content": "Hel"}, **top),
        chunk({"role": "assistant", "content": "lo"}, **top),
        chunk({}, "stop", **top),
    ]
    return Vendor("lmstudio", as_json(plain), sse(*pieces), "Hello", stream_usage=(None, None))


def _deepseek() -> Vendor:
    top: dict[str, Any] = {"id": "e1b4", "created": 1764000000, "model": "deepseek-chat", "system_fingerprint": "fp_d"}
    usage = {**_USAGE, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 1}
    message: dict[str, Any] = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm"}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": usage}
    stream = sse(
        b": keep-alive\n\n",
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}, usage=None, **top),
        chunk({"content": None, "reasoning_content": "Hm"}, usage=None, **top),
        b": keep-alive\n\n",
        chunk({"content": "Hel", "reasoning_content": None}, usage=None, **top),
        chunk({"content": "lo", "reasoning_content": None}, usage=None, **top),
        chunk({"content": "", "reasoning_content": None}, "stop", usage=usage, **top),
    )
    return Vendor("deepseek", b"\n\n\n" + as_json(plain), stream, "Hello", "Hm", extra={"reasoning_content"})


def _mistral() -> Vendor:
    top: dict[str, Any] = {"id": "cmpl-m", "created": 1764000000, "model": "magistral"}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    message: dict[str, Any] = {
        "role": "assistant",
        "tool_calls": None,
        "content": [thought, {"type": "text", "text": "Hello"}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    stream = sse(
        chunk({"role": "assistant", "content": [thought]}, **top),
        chunk({"content": "Hel"}, **top),
        chunk({"content": "lo"}, "stop", usage=_USAGE, **top),
    )
    return Vendor("mistral", as_json(plain), stream, "Hello", "Hm")


def _gemini() -> Vendor:
    top: dict[str, Any] = {"id": "gm", "created": 1764000000, "model": "gemini"}
    extra = {"google": {"thought_signature": "c2ln"}}
    calls = [{**tool_call("function-call-1"), "extra_content": extra}, tool_call("function-call-2")]
    message: dict[str, Any] = {"role": "assistant", "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    plain = {**top, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    stream = sse(
        chunk({"role": "assistant", "tool_calls": [{**calls[0], "index": 0}]}, **top),
        chunk({"role": "assistant", "tool_calls": [{**calls[1], "index": 0}]}, **top),
        chunk({"role": "assistant"}, "stop", usage=_USAGE, **top),
    )
    return Vendor("gemini", as_json(plain), stream, "", calls=2)


VENDORS = [
    _openai(),
    _azure(),
    _openrouter(),
    _litellm(),
    _vllm(),
    _sglang(),
    _llamacpp(),
    _ollama(),
    _lmstudio(),
    _deepseek(),
    _mistral(),
    _gemini(),
]
