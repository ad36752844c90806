"""A plain turn with convokit and with its peers, interleaved in one run: `python -m tests.benchmarks.peers [HISTORY] [ROUNDS]`.

Each peer gets an environment of its own below the temporary folder, made with uv at the first run (that needs a network). All
talk to one server, in turns, ten turns at a time; medians of wall and CPU time, and how many times convokit's they are.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.server import running

HERE = Path(__file__).parent
PEERS = {
    "convokit": ("ours", ()),
    "pydantic-ai, rows of JSON, last 20": ("pydantic_ai_rows", ("pydantic-ai-slim[openai]==2.68.0",)),
    "openai-agents, SQLiteSession, last 20": ("openai_agents", ("openai-agents==0.24.0",)),
    "LangGraph, SqliteSaver, last 20": (
        "langgraph_checkpoints",
        ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2", "langchain-openai==1.7.3"),
    ),
    "LangChain, SQLChatMessageHistory, last 20": (
        "langchain_history",
        (
            "langchain-core==1.7.2",
            "langchain-community==0.4.2",
            "langchain-openai==1.7.3",
            "sqlalchemy[asyncio]==2.1.9",
        ),
    ),
    "llm, everything": ("llm_logs", ("llm==0.36",)),
}
TURNS = 10


def environment(name: str, packages: tuple[str, ...]) -> str:
    """Return the Python of a peer's environment, made if it is not there yet."""
    if not packages:
        return sys.executable
    folder = Path(tempfile.gettempdir()) / "convokit-peers" / name
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run(["uv", "venv", "-q", "--clear", "-p", sys.executable, str(folder)], check=True)
        # The project's own settings leave llm out.
        subprocess.run(["uv", "pip", "install", "-q", "--no-config", "-p", str(python), *packages], check=True)
        (folder / "done").touch()
    return str(python)


def measure(history: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return wall and CPU times by peer."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with running(1) as url, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started: dict[str, subprocess.Popen[str]] = {}
        for peer, (name, packages) in PEERS.items():
            command = [environment(name, packages), str(HERE / f"{name}.py"), url, folder, str(history)]
            paths = {"PYTHONPATH": str(HERE.parents[2])} if not packages else {}
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **paths},
            )
            stack.callback(child.kill)
            started[peer], found[peer] = child, ([], [])
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", peer
        for _ in range(rounds):
            for peer, child in started.items():
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(f"{TURNS}\n")
                child.stdin.flush()
                walls, cpus = json.loads(child.stdout.readline())
                found[peer][0].extend(walls)
                found[peer][1].extend(cpus)
    return found


def main(history: int = 100, rounds: int = 10) -> None:
    """Print the table."""
    found = measure(history, rounds)
    ours = [statistics.median(times) for times in found["convokit"]]
    print(f"A plain turn behind {history:,} messages, SQLite: medians of {rounds * TURNS}")
    print()
    print("| | wall ms | CPU ms | times convokit's wall | CPU |")
    print("|---|---|---|---|---|")
    for peer, (walls, cpus) in found.items():
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        print(f"| {peer} | {wall:.2f} | {cpu:.2f} | {wall / ours[0]:.1f} | {cpu / ours[1]:.1f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
