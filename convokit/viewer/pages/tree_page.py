"""Read the tree of a conversation, run by run."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from convokit import Branch, Conversation, Run
from convokit.viewer.page_request import PageRequest
from convokit.viewer.pages.conversation_page import read_conversation

_RUNS = 200
_BRANCHES = 200


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A run of messages, and how deep it lies."""

    run: Run
    depth: int
    """The number of shown runs above it."""
    branches: list[Branch]
    """The branches that end in it."""


@dataclass(frozen=True, slots=True)
class TreePage:
    """The newest runs of a conversation, each below the run that it follows."""

    conversation: Conversation
    lines: list[TreeLine]
    before: int | None
    """The first seq of the page, if there are earlier runs."""


async def read_tree(page: PageRequest) -> TreePage:
    """Read the shape of a conversation."""
    conversation = await read_conversation(page)
    chat = page.open_chat()
    runs = await chat.runs(limit=_RUNS, before=page.read_number("before"))
    lines = arrange_runs(runs, await chat.branches(limit=_BRANCHES))
    has_earlier = len(runs) == _RUNS and runs[0].first > 1
    return TreePage(conversation, lines, runs[0].first if has_earlier else None)


def arrange_runs(runs: list[Run], branches: list[Branch]) -> list[TreeLine]:
    """Return the runs in the order of a tree: each behind the run that it follows, siblings in the order of writing."""
    starts = [run.first for run in runs]
    ending: dict[int, list[Branch]] = {}
    for branch in branches:
        seq = 0 if branch.head is None else int(branch.head.rpartition(":")[2])
        ending.setdefault(_find_run(starts, seq), []).append(branch)
    children: dict[int, list[Run]] = {}
    for run in runs:
        children.setdefault(_find_run(starts, run.parent_seq or 0), []).append(run)
    lines: list[TreeLine] = []
    waiting = [(run, 0) for run in reversed(children.get(-1, []))]
    while waiting:
        run, depth = waiting.pop()
        index = starts.index(run.first)
        lines.append(TreeLine(run, depth, ending.get(index, [])))
        waiting += [(child, depth + 1) for child in reversed(children.get(index, []))]
    return lines


def _find_run(starts: list[int], seq: int) -> int:
    """Return the index of the run with a message; -1 if it is on an earlier page or there is none."""
    return bisect_right(starts, seq) - 1 if seq else -1
