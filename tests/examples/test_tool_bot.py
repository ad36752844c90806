"""The bot with tools: calls that need a person, a restart in the middle of one, and the note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from convokit.testing import ScriptedCall, ScriptedModel

pytestmark = pytest.mark.once
Load = Callable[[str], Any]


@pytest.fixture
def type_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that scripts what the person types. After the last line comes Ctrl-C."""

    def script(*lines: str) -> None:
        waiting = iter(lines)

        def read(prompt: str) -> str:
            print(prompt, end="")
            for line in waiting:
                return line
            raise KeyboardInterrupt

        monkeypatch.setattr("builtins.input", read)

    return script


def test_the_person_decides_about_each_payment(
    load_example: Load, type_lines: Callable[..., None], convokit_kit: Convokit, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines("中央は何時までですか", "罰金を払います", "y", "罰金をもう一度", "n", "")
    load_example("tool_bot").main()
    printed = capsys.readouterr().out
    assert 'wants to run pay_fine with {"yen": 300}' in printed
    assert printed.splitlines()[-1].endswith("Note (ja): 中央は何時までですか; paid 300 yen")
    messages = convokit_kit.chat("reader-7").messages()
    assert [each.text for each in messages if each.role == "tool"] == [
        '{"branch":"中央","opens":"09:00","closes":"20:00"}',
        '{"paid_yen":300}',
        "The reader refused.",
    ]
    assert "librarian" not in str(messages)  # the note is on a branch of its own


def test_a_payment_that_was_not_decided_is_asked_again(
    load_example: Load, type_lines: Callable[..., None], convokit_kit: Convokit
) -> None:
    """Ctrl-C at the question leaves the call open. The next run asks the person, and asks the model nothing before."""
    bot = load_example("tool_bot")
    type_lines("fine")
    with pytest.raises(KeyboardInterrupt):
        bot.main()
    chat = convokit_kit.chat("reader-7")
    assert [call["function"]["name"] for call in chat.open_calls()] == ["pay_fine"]
    type_lines("y", "")
    bot.main()
    assert [each.role for each in chat.messages()] == ["user", "assistant", "tool", "assistant"]
    assert chat.open_calls() == []


def test_the_model_of_the_environment_reads_why_a_call_failed(
    load_example: Load, type_lines: Callable[..., None], monkeypatch: pytest.MonkeyPatch, convokit_file: Path
) -> None:
    """Arguments that do not fit the function are not run, even if the person allows the call."""
    note = '{"language": "en", "wish": "to pay", "paid_yen": 0}'
    model = ScriptedModel([ScriptedCall("pay_fine", {"yen": "many"}), "How much is it?", note])
    with model.serve() as url:
        for name, value in (("OPENAI_BASE_URL", url), ("OPENAI_API_KEY", "test"), ("CONVOKIT_MODEL", "gpt-6-luna")):
            monkeypatch.setenv(name, value)
        type_lines("I want to pay", "y", "")
        load_example("tool_bot").main()
    result = model.requests[1].messages[-1]
    assert result["role"] == "tool"
    assert "yen" in result["content"]
    assert model.last_request.body["response_format"]["json_schema"]["name"] == "Note"
