"""Call every public method of a kit and of a chat on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.faces import Face
from tests.support.public_calls import DRY_RUNS, list_writes, run_reads, write_history
from tests.support.server import LoopbackServer

_DAY = timedelta(days=1)


def list_searches() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield queries with the parameters of a search. All of them find something."""
    now = datetime.now(UTC)
    yield "hello", {}
    yield '"and now"', {}
    yield "東京", {}
    yield "京", {}
    yield "echo", {"role": "assistant"}
    yield "hello", {"subject": "anna"}
    yield "hello", {"key": "a"}
    yield "first", {"metadata": {"plan": "pro"}}
    yield "hello", {"since": now - _DAY, "until": now + _DAY}
    yield "noted", {}


def run_searches(face: Face, kit: Any) -> None:
    """Search in every way, and page through the results of a frequent word."""
    for query, parameters in list_searches():
        assert face.settle(kit.search(query, **parameters)), (query, parameters)
    whole = [hit.message.content for hit in face.settle(kit.search("echo", limit=100))]
    paged: list[Any] = []
    cursor = None
    while not paged or cursor:
        page = face.settle(kit.search("echo", limit=3, before=cursor))
        paged += [hit.message.content for hit in page]
        cursor = page.next
    assert sorted(map(str, paged)) == sorted(map(str, whole))


def run_every_call(
    face: Face, url: str, server: LoopbackServer, folder: Path, tenant: str, called: Callable[[str], None]
) -> None:
    """Call everything. `called` is told the name of each call on one conversation after it returned."""
    write_history(face, url, server, folder, tenant=tenant)
    kit = face.kit(url, model="loop-1", base_url=server.url, tenant=tenant)
    run_reads(face, face.kit(url, model="loop-1", base_url=server.url, tenant=tenant, read_only=True), folder)
    for name, write in list_writes(server):
        (face.collect if "stream" in name else face.settle)(write(kit))
        called(name)
    run_searches(face, kit)
    for by in ("day", "model", "conversation"):
        assert face.settle(kit.usage(by=by)).rows
    for name, call in DRY_RUNS.items():
        assert face.settle(call(kit, folder)) is not None, name
    face.settle(kit.export(folder / "all.jsonl"))
    for copy, options in (("imported", {}), ("restored", {"trusted": True})):
        imported = face.settle(kit.tenant(f"{tenant} {copy}").import_(folder / "all.jsonl", **options))
        assert imported.conversations > 0
    face.settle(kit.reindex())
    face.settle(kit.recover())
    assert face.settle(kit.verify()).conversations > 0
    face.settle(kit.chat("new").redact(1, reason="asked"))
    face.settle(kit.erase(subject="anna", reason="asked"))
    face.settle(kit.purge(older_than=timedelta(0)))
    face.settle(kit.verify())
    face.settle(kit.tenant(f"{tenant} restored").verify())
    face.settle(kit.migrate())
