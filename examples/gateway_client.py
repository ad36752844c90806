"""A client of the gateway with OpenAI's package: the gateway keeps the conversation, and a lost connection loses nothing.

Start a gateway with a model that needs no key, and talk to it from a second terminal:

    convokit serve --demo

    uv run --with openai python examples/gateway_client.py kyoto "My name is Hanako."
    uv run --with openai python examples/gateway_client.py kyoto "What did I say?"

OPENAI_BASE_URL names another gateway, OPENAI_API_KEY is a key for it, and CONVOKIT_MODEL names the model.
"""

import os
import sys
from collections.abc import Iterator

from openai import APIConnectionError, OpenAI

BASE_URL = "http://127.0.0.1:8000/v1"
ENDS = ("response.completed", "response.incomplete", "response.failed")


def connect() -> OpenAI:
    """Return a client for the gateway that the environment names, else for one on this machine."""
    url, key = os.environ.get("OPENAI_BASE_URL", BASE_URL), os.environ.get("OPENAI_API_KEY", "none")
    return OpenAI(base_url=url, api_key=key)


def ask(client: OpenAI, name: str, question: str, model: str = "demo") -> Iterator[str]:
    """Yield the reply of the conversation `name` while it arrives. Only the question is sent, not the history."""
    headers = {"X-Conversation-Id": name, "X-Conversation-Mode": "append"}
    stream = client.responses.create(model=model, input=question, extra_headers=headers, stream=True)
    response_id, last = "", 0
    while True:
        try:
            for event in stream:
                last = event.sequence_number
                if event.type == "response.created":
                    response_id = event.response.id
                elif event.type == "response.output_text.delta":
                    yield event.delta
                elif event.type in ENDS:
                    return
        except APIConnectionError:
            if not response_id:
                raise
        # The gateway goes on without its reader. It sends the events that this program has not seen yet.
        stream = client.responses.retrieve(response_id, stream=True, starting_after=last)


def main() -> None:
    """Ask one question, and print the reply."""
    _, name, question = sys.argv
    with connect() as client:
        for text in ask(client, name, question, os.environ.get("CONVOKIT_MODEL", "demo")):
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
