"""A library's bot with tools: one that the bot runs itself, one that asks you first, and a typed note at the end.

Run it in a checkout, with your own model or without one:

    export OPENAI_API_KEY=... CONVOKIT_MODEL=gpt-6-luna    (and OPENAI_BASE_URL for another server than OpenAI's)
    uv run python examples/tool_bot.py

Ask when a branch is open, or pay a fine; an empty line ends the talk. Without CONVOKIT_MODEL, simple rules in this file answer:
try "When are you open?" and "罰金を払います". CONVOKIT_DATABASE_URL names the database; the default is bot.db in this folder.
Run it again after Ctrl-C at the payment: the bot asks you again, and the model is not asked again.
"""

import os
from typing import Any, Literal

from pydantic import BaseModel

from convokit import Chat, Convokit, Stream, tool
from convokit.errors import BadArguments, ConvokitError
from convokit.testing import RecordedRequest, ScriptedCall, ScriptedModel

PROMPT = "You answer readers of a public library, briefly and in their language. Use the tools; never guess hours."


def opening_hours(branch: str) -> dict[str, str]:
    """Look up when a branch of the library is open today.

    Args:
        branch: The name of the branch, for example "Central" or "中央".
    """
    return {"branch": branch, "opens": "09:00", "closes": "20:00"}


@tool(approval=True)
def pay_fine(yen: int) -> dict[str, int]:
    """Pay the reader's fine from the account of the reader.

    Args:
        yen: The amount.
    """
    # A crash after the payment leaves the call open, and the person may approve it again: use the id of a fine that can be
    # paid only once.
    return {"paid_yen": yen}


TOOLS = (opening_hours, pay_fine)


class Note(BaseModel):
    """What the librarian reads about the talk."""

    language: Literal["en", "ja", "other"]
    wish: str
    paid_yen: int


def make_kit() -> Convokit:
    """Return a kit for the model that the environment names, else for the rules of `answer_by_rule`."""
    database = os.environ.get("CONVOKIT_DATABASE_URL", "bot.db")
    if os.environ.get("CONVOKIT_MODEL"):
        return Convokit(database, developer_prompt=PROMPT, tools=TOOLS)
    client = ScriptedModel(answer_by_rule).client()
    return Convokit(database, model="rules", api_key="none", http_client=client, developer_prompt=PROMPT, tools=TOOLS)


def run_calls(chat: Chat) -> dict[str, Any]:
    """Ask the person about each call that waits for approval, run those that are approved, and return all results."""
    results: dict[str, Any] = {}
    for call in chat.open_calls():
        function = call["function"]
        answer = input(f"The bot wants to run {function['name']} with {function['arguments']}. Allow it? [y/N] ")
        try:
            results[call["id"]] = pay_fine.run(call) if answer.strip() == "y" else "The reader refused."
        except BadArguments as error:  # the model reads the reason, and may try again
            results[call["id"]] = str(error)
    return results


def show(stream: Stream[Any]) -> None:
    """Print a reply as it comes."""
    with stream as events:
        for event in events:
            print(event.text, end="", flush=True)
    print()


def talk(chat: Chat) -> None:
    """Answer the person until an empty line."""
    while True:
        while results := run_calls(chat):  # also calls that an earlier run of this program left open
            show(chat.stream(tool_results=results))
        question = input("> ").strip()
        if not question:
            return
        try:
            show(chat.stream(question))
        except ConvokitError as error:
            print(f"{type(error).__name__}: {error}")


def main() -> None:
    """Talk to one reader, then print the note for the librarian."""
    with make_kit() as kit:
        kit.migrate()
        chat = kit.chat("reader-7", subject="reader-7", title="Library desk")
        talk(chat)
        if not chat.messages(limit=1):
            return
        # A branch of its own keeps this request out of the reader's conversation.
        note = chat.fork().send("Write a note about this conversation for the librarian.", response_format=Note).parsed
        if note is not None:
            print(f"Note ({note.language}): {note.wish}; paid {note.paid_yen} yen")


def answer_by_rule(request: RecordedRequest) -> str | ScriptedCall:
    """Stand in for a model."""
    questions = [each["content"] for each in request.messages if each["role"] == "user"]
    results = [each["content"] for each in request.messages if each["role"] == "tool"]
    if "response_format" in request.body:
        paid = 300 * sum("paid_yen" in each for each in results)
        return Note(
            language="en" if questions[0].isascii() else "ja", wish=questions[0], paid_yen=paid
        ).model_dump_json()
    if request.messages[-1]["role"] == "tool":
        return f"Here is what I found: {request.text}"
    if "open" in request.text.lower() or "何時" in request.text:
        return ScriptedCall("opening_hours", {"branch": "Central" if request.text.isascii() else "中央"})
    if "fine" in request.text.lower() or "罰金" in request.text:
        return ScriptedCall("pay_fine", {"yen": 300})
    return f"You said: {request.text}"


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, EOFError):
        print()
