"""The gateway against the library's own turn: CPU of a turn and of a chunk, 200 streams at once, and slow readers.

`python -m tests.benchmarks.gateway [--rounds N] [--streams N] [--only sqlite|postgresql]`. The library and the gateway run in
processes of their own, with a database each, and take turns in one run. The client of the gateway is this process. The model
server is a third process; for the streams at once it sends a chunk every 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from convokit import AsyncConvokit
from convokit.server import GatewaySettings, allow_anyone, create_app
from tests.benchmarks import engines, page
from tests.benchmarks.server import chunk_events, running

BODY = {"model": "bench", "messages": [{"role": "user", "content": "A question of some words, as people ask them."}]}
QUESTION = str(BODY["messages"][0]["content"])  # type: ignore[index]
FEW, MANY = 50, 500
PAUSE_S, PACED = 0.1, 30
WRITE_TIMEOUT_S = 2.0
SLOW_READERS, LARGE = 5, 25_000


def cpu_s() -> float:
    """Return the CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Library:
    """Turns of the library, in a process of their own."""

    def __init__(self, kit: AsyncConvokit) -> None:
        self.kit = kit

    async def turn(self, *, stream: bool) -> None:
        """One turn in a new conversation."""
        chat = self.kit.chat()
        if not stream:
            await chat.send(QUESTION)
            return
        async with chat.stream(QUESTION) as events:
            async for _ in events:
                pass

    async def measure(self, count: int, kind: str) -> str:
        """Return the CPU seconds of so many turns."""
        before = cpu_s()
        for _ in range(count):
            await self.turn(stream=kind == "stream")
        return str((cpu_s() - before) / count)

    async def crowd(self, count: int) -> str:
        """Return the seconds to the first chunk, and the longest between two, of many streams at once."""
        gaps = Gaps()

        async def read() -> None:
            reader = gaps.start()
            async with self.kit.chat().stream(QUESTION) as events:
                async for event in events:
                    if event.text:
                        reader()

        await asyncio.gather(*(read() for _ in range(count)))
        return gaps.text


class Gaps:
    """The times of chunks of many readers."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.longest: list[float] = []

    def start(self) -> Callable[[], None]:
        """Return what a reader calls with each chunk."""
        last, number = time.perf_counter(), len(self.longest)
        self.longest.append(0.0)
        is_first = True

        def note() -> None:
            nonlocal last, is_first
            now = time.perf_counter()
            if is_first:
                self.first.append(now - last)
            else:
                self.longest[number] = max(self.longest[number], now - last)
            last, is_first = now, False

        return note

    @property
    def text(self) -> str:
        """Median and largest time to the first chunk, and the largest gap."""
        return f"{statistics.median(self.first)} {max(self.first)} {max(self.longest)}"


async def run_library(database: str, url: str) -> None:
    """Obey the parent: `turns COUNT KIND` or `crowd COUNT`."""
    async with AsyncConvokit(database, model="bench", base_url=url, api_key="x") as kit:
        library, loop = Library(kit), asyncio.get_running_loop()
        print("ready", flush=True)
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            if line[0] == "turns":
                print(await library.measure(int(line[1]), line[2]), flush=True)
            else:
                print(await library.crowd(int(line[1])), flush=True)


async def run_gateway(database: str, url: str) -> None:
    """Serve until the parent goes. A line of input is answered with CPU seconds and the largest memory in MB."""
    settings = GatewaySettings(write_timeout_s=WRITE_TIMEOUT_S)
    async with AsyncConvokit(database, model="bench", base_url=url, api_key="x", mode="pass") as kit:
        app = create_app(kit, auth=allow_anyone, settings=settings)
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1, backlog=512
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(cpu_s(), peak, len(app.state.gateway.running._tasks), flush=True)
        server.should_exit = True
        await serving


async def run_model(chunks: int) -> None:
    """Serve streams with a chunk every `PAUSE_S`, until the parent goes."""
    events = chunk_events(chunks)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = int(asked.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(head)
                for event in events:
                    writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                    await asyncio.sleep(PAUSE_S)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@dataclass
class Child:
    """A process that answers lines with lines."""

    process: subprocess.Popen[str]
    ready: str

    def ask(self, line: str = "") -> list[float]:
        """Send a line, and return the numbers of the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return [float(number) for number in self.process.stdout.readline().split()]


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Run this module in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.gateway", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Child(process, process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def measure_turns(database: Callable[[], str], chunks: int, rounds: int, *, stream: bool) -> tuple[float, float]:
    """Return the CPU milliseconds of a turn of the library and of the gateway."""
    kind, count = "stream" if stream else "plain", 20
    with (
        running(chunks) as url,
        child("library", database(), url) as library,
        child("gateway", database(), url) as gateway,
        httpx.Client(timeout=60) as client,
    ):
        own: list[float] = []
        served: list[float] = []
        for number in range(-1, rounds):
            took = library.ask(f"turns {count} {kind}")[0]
            before = gateway.ask()[0]
            for _ in range(count):
                sent = client.post(
                    f"http://127.0.0.1:{gateway.ready}/v1/chat/completions", json={**BODY, "stream": stream}
                )
                assert sent.status_code == 200, sent.text
            if number >= 0:
                own.append(took)
                served.append((gateway.ask()[0] - before) / count)
        return statistics.median(own) * 1000, statistics.median(served) * 1000


async def read_crowd(port: str, count: int) -> Gaps:
    """Read many streams at once."""
    gaps = Gaps()
    data = httpx.Request("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json={**BODY, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data.content)}\r\n\r\n"

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        note = gaps.start()
        writer.write(head.encode() + data.content)
        while (line := await reader.readline()) != b"data: [DONE]\n":
            assert line, "the stream ended early"
            if b'"delta":{"content":" word' in line:
                note()
        writer.close()

    await asyncio.gather(*(read() for _ in range(count)))
    return gaps


def measure_crowd(database: Callable[[], str], count: int, rounds: int) -> list[list[float]]:
    """Return medians over the rounds of first chunk (median, largest) and largest gap: of the library, of the gateway."""
    with child("model", str(PACED)) as model:
        url = f"http://127.0.0.1:{model.ready}/v1"
        with child("library", database(), url) as library, child("gateway", database(), url) as gateway:
            found: tuple[list[Sequence[float]], list[Sequence[float]]] = ([], [])
            for _ in range(rounds):
                found[0].append(library.ask(f"crowd {count}"))
                gaps = asyncio.run(read_crowd(gateway.ready, count))
                found[1].append([float(each) for each in gaps.text.split()])
            return [[statistics.median(column) for column in zip(*each, strict=True)] for each in found]


def measure_slow_readers(database: Callable[[], str]) -> str:
    """Return what readers cost that take nothing: memory, and how long their connections stay."""
    with running(LARGE) as url, child("gateway", database(), url) as gateway:
        [_, before, _] = gateway.ask()
        data = httpx.Request("POST", "http://x", json={**BODY, "stream": True}).content
        readers = []
        for _ in range(SLOW_READERS):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", int(gateway.ready)))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
            reader.sendall(head.encode() + data)
            readers.append(reader)
        started = time.perf_counter()
        while gateway.ask()[2] == 0:
            time.sleep(0.1)
        while gateway.ask()[2]:
            time.sleep(0.1)
        turns_s = time.perf_counter() - started
        time.sleep(WRITE_TIMEOUT_S + 1)
        open_after = sum(not has_end(reader) for reader in readers)
        peak = gateway.ask()[1]
        return (
            f"{SLOW_READERS} readers that take nothing, {LARGE:,} chunks each: all turns ended after {turns_s:.1f} s; "
            f"{open_after} connections were open {WRITE_TIMEOUT_S + 1:g} s later; "
            f"memory rose from {before:.0f} to {peak:.0f} MB"
        )


def has_end(reader: socket.socket) -> bool:
    """Read what the kernel has, and return whether the server closed the connection before the end of the stream."""
    reader.settimeout(2)
    tail = b""
    try:
        while part := reader.recv(1 << 20):
            tail = (tail + part)[-100:]
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        reader.close()
    return b"[DONE]" not in tail


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    with engines.makers(given.only) as makers:
        for kind, make in makers.items():
            costs: dict[str, tuple[float, float]] = {"plain": measure_turns(make, 1, given.rounds, stream=False)}
            for chunks in (FEW, MANY):
                costs[f"{chunks} chunks"] = measure_turns(make, chunks, given.rounds, stream=True)
            rows = [
                [kind, name, f"{own:.2f}", f"{served:.2f}", f"{served - own:.2f}", f"{served / own:.2f}"]
                for name, (own, served) in costs.items()
            ]
            more = [costs[f"{MANY} chunks"][side] - costs[f"{FEW} chunks"][side] for side in (0, 1)]
            own, served = (each / (MANY - FEW) for each in more)
            rows.append([kind, "a chunk", f"{own:.3f}", f"{served:.3f}", f"{served - own:.3f}", f"{served / own:.2f}"])
            head = ("database", "turn", "library, ms CPU", "gateway, ms CPU", "more, ms", "gateway / library")
            print(page.table(head, rows), end="\n\n", flush=True)
            crowds = [
                [kind, name, *(f"{each * 1000:.0f}" for each in times)]
                for name, times in zip(("library", "gateway"), measure_crowd(make, given.streams, 3), strict=True)
            ]
            crowd_head = (
                "database",
                f"{given.streams} at once",
                "first chunk, ms",
                "the last one, ms",
                "largest gap, ms",
            )
            print(page.table(crowd_head, crowds), end="\n\n", flush=True)
            print(f"{kind}: {measure_slow_readers(make)}", end="\n\n", flush=True)


ROLES: dict[str, Callable[..., Any]] = {"library": run_library, "gateway": run_gateway}

if __name__ == "__main__":
    if sys.argv[1:2] == ["model"]:
        asyncio.run(run_model(int(sys.argv[2])))
    elif len(sys.argv) > 1 and sys.argv[1] in ROLES:
        asyncio.run(ROLES[sys.argv[1]](*sys.argv[2:]))
    else:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        main()
