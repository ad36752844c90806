"""Serve a gateway in a process that a test may kill: `python -m tests.server.killable_gateway DATABASE URL`."""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from convokit import AsyncConvokit, Retry
from convokit.server import allow_anyone, create_app
from tests.support.gateway import MODEL


async def main(database: str, url: str) -> None:
    """Serve, and print the port."""
    retry = Retry(attempts=1)
    async with AsyncConvokit(database, model=MODEL, base_url=url, api_key="x", mode="pass", retry=retry) as kit:
        app = create_app(kit, auth=allow_anyone)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
