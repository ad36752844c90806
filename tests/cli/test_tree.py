"""Test `show --tree`."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from convokit import Convokit
from tests.cli.conftest import CommandLine

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
LONG = "とても長い日本語の質問がここにあります。" * 6


def _make_branches(cli: CommandLine, *, deep: int = 0) -> None:
    """Make an edit, a second reply and a fork; with `deep`, forks of forks."""
    with Convokit(cli.database, model="loop-1", base_url=cli.base_url) as kit:
        chat = kit.chat("k")
        chat.send("one", passages=["a passage"])
        chat.send(LONG)
        chat.regenerate()
        fork = chat.fork(3, name="試し書き")
        fork.send("on the fork")
        chat.edit(2, "uno")
        chat.checkout(6)
        for number in range(deep):
            fork.edit(fork.messages()[-2].seq, f"deeper {number}")
            fork = fork.fork()
            fork.send(f"side {number}")


def test_tree_draws_the_path_and_its_alternatives(cli: CommandLine) -> None:
    """Filled marks are the main branch's path. A branch's name stands at its last message. Passages are not drawn."""
    _make_branches(cli)
    lines = cli("show", "k", "--tree").stdout.splitlines()
    assert [re.sub("とても.*。", "…", line) for line in lines] == [
        "┌─○  9 user      uno",
        "│ ○ 10 assistant echo: uno",
        "●  2 user      one",
        "●  3 assistant echo: one",
        "├─○  7 user      on the fork",
        "│ ○  8 assistant echo: on the fork ← 1 試し書き",
        "●  4 user      …",
        "├─○  5 assistant echo: …",
        "●  6 assistant echo: … ← main",
    ]


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(cli: CommandLine, columns: int) -> None:
    """In a deep tree the text is cut, but no mark, number or branch."""
    _make_branches(cli, deep=20)
    env = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm"}
    shown = _STYLE.sub("", cli("show", "k", "--tree", "--last", "500", env=env).stdout).splitlines()
    assert max(map(cell_len, shown)) <= columns
    assert any("…" in line for line in shown)
    found = {int(match[1]) for line in shown if (match := re.search(r"[●○] +(\d+) ", line))}
    assert found == set(range(2, len(found) + 2))
    assert sum("← main" in line for line in shown) == 1


def test_tree_last_counts_messages_of_all_branches(cli: CommandLine) -> None:
    _make_branches(cli)
    result = cli("show", "k", "--tree", "--last", "4")
    assert re.findall(r"[●○] +(\d+) ", result.stdout) == ["7", "8", "9", "10"]
    assert "--last 8 shows more" in result.stderr


def test_tree_json_holds_branches_path_and_messages(cli: CommandLine) -> None:
    _make_branches(cli)
    found = cli.json("show", "k", "--tree")
    assert [(each["number"], each["name"]) for each in found["branches"]] == [(0, "main"), (1, "試し書き")]
    assert found["path"] == [1, 2, 3, 4, 6]
    parents = {each["seq"]: each["parent_seq"] for each in found["messages"]}
    assert parents == {1: None, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 3, 8: 7, 9: None, 10: 9}


def test_tree_text_cannot_steer_the_terminal(cli: CommandLine) -> None:
    with Convokit(cli.database, model="loop-1", base_url=cli.base_url) as kit:
        chat = kit.chat("k")
        chat.send("red \x1b[31m and\nanother line")
        chat.fork(name="\x1b[2J\nboo")
    shown = cli("show", "k", "--tree").stdout
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2
    assert "main, 1 ␛[2J boo" in shown
