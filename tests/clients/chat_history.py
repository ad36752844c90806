"""A chat program with OpenAI's package for Python, which keeps its history itself."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI

from tests.support.gateway import MODEL

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Return the weather at a place.",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        },
    }
]


class ChatHistory:
    """A conversation whose messages the client keeps, and sends whole with each question."""

    def __init__(
        self, client: OpenAI, *, system: str | None = None, stream: bool = False, tools: Any = None, **options: Any
    ) -> None:
        self._client, self._stream = client, stream
        self._options = {"model": MODEL, **({"tools": tools} if tools else {}), **options}
        self.messages: list[Any] = [] if system is None else [{"role": "system", "content": system}]
        self.places: list[str] = []
        """Where the gateway put each request, as its response says."""

    def ask(self, content: Any = None) -> str | None:
        """Ask a question, or the last one again; run the tools that the model asks for, and return the reply."""
        if content is not None:
            self.messages.append({"role": "user", "content": content})
        while True:
            message = self._complete()
            self.messages.append(message.to_dict() if self._stream else message)
            if not message.tool_calls:
                return str(message.content)
            for call in message.tool_calls:
                location = json.loads(call.function.arguments)["location"]
                result = {"role": "tool", "tool_call_id": call.id, "content": f"sunny in {location}"}
                self.messages.append(result)

    def _complete(self) -> Any:
        request = {**self._options, "messages": self.messages}
        completions = self._client.chat.completions
        if not self._stream:
            raw = completions.with_raw_response.create(**request)
            self.places.append(raw.headers["X-Conversation-Place"])
            return raw.parse().choices[0].message
        with completions.stream(**request) as stream:
            message = stream.get_final_completion().choices[0].message
            self.places.append(stream._response.headers["X-Conversation-Place"])
            return message
