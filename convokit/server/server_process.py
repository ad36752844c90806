"""Run the gateway in uvicorn, in one process or in several workers.

SIGTERM drains a process: it refuses new requests, and ends when its running turns have ended. A second signal stops them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import uvicorn

from convokit.errors import SettingsError
from convokit.server.config_file import GatewayConfig, open_application
from convokit.server.gateway import Gateway

_BACKLOG = 2048
_MAX_HEAD_BYTES = 64 * 1024
"""The first line and the headers of a request."""
_CLOSE_S = 5
"""For readers to take the end of their streams, and for stopped turns to be saved."""
_RESTART_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EXIT_CODE_BASE = 128
_LIBRARY = "convokit"
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
log = logging.getLogger("convokit.server")


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Port 0 is any free port. Raises: SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        problem = f"cannot listen on {host}, port {port} ({reason}): stop the other program, or choose another --port"
        raise SettingsError("port", problem) from None


def run_server(config: GatewayConfig, listener: socket.socket) -> int:
    """Serve until a signal ends the server, and return the exit code: 0 after a drain."""
    configure_logging(config)
    if config.workers > 1:
        return _Supervisor(config, listener).run()
    return asyncio.run(_serve(config, listener, is_worker=False))


def configure_logging(config: GatewayConfig) -> None:
    """Write log lines to stderr: those of convokit from the configured level, and warnings of other libraries."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=_LOG_FORMAT, force=True)
    logging.getLogger(_LIBRARY).setLevel(config.log_level.upper())


class DrainingServer(uvicorn.Server):
    """A server that finishes its running turns, and refuses new requests, before it closes its listener."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_timeout_s: float, *, is_worker: bool) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._gateway = gateway
        self._drain_timeout_s = drain_timeout_s
        self._is_worker = is_worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the drain at the first signal, and stop the turns at the second."""
        # Ctrl-C reaches all processes of a terminal, and the supervisor sends SIGTERM for it.
        if self._is_worker and sig == signal.SIGINT:
            return
        if self.should_exit:
            self.force_exit = True
            self.exit_code = _EXIT_CODE_BASE + sig
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)  # a third signal ends the process at once
        self._gateway.is_draining = True
        self.should_exit = True

    async def main_loop(self) -> None:
        """Serve until the first signal, then drain."""
        await super().main_loop()
        draining = asyncio.ensure_future(self._gateway.drain(self._drain_timeout_s))
        ticks = 0
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
            await self.on_tick(ticks)  # it sets the Date header
            ticks += 1
        draining.cancel()
        await self._stop_turns()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and all connections."""
        await super().shutdown(sockets)
        await self._stop_turns()  # of requests that were being read when the drain ended

    async def _stop_turns(self) -> None:
        stopped = await self._gateway.running.stop(_CLOSE_S)
        if stopped:
            log.warning("%s turns did not end in time: their partial replies are saved", stopped)


async def _serve(config: GatewayConfig, listener: socket.socket, *, is_worker: bool) -> int:
    proxies = config.trusted_proxies
    async with open_application(config) as app:
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="off",  # the application's own would wait for turns without a limit
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            timeout_keep_alive=config.limits.keep_alive_s,
            timeout_graceful_shutdown=_CLOSE_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            backlog=_BACKLOG,
        )
        server = DrainingServer(settings, app.state.gateway, config.drain_timeout_s, is_worker=is_worker)
        parent = multiprocessing.parent_process()
        if is_worker and parent is not None:  # a worker must not go on without its supervisor
            asyncio.get_running_loop().add_reader(parent.sentinel, _end_orphan, server, parent.sentinel)
        await server.serve([listener])
    return server.exit_code


def _end_orphan(server: DrainingServer, sentinel: int) -> None:
    asyncio.get_running_loop().remove_reader(sentinel)
    server.handle_exit(signal.SIGTERM, None)


def _run_worker(config: GatewayConfig, listener: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(config)
    sys.exit(asyncio.run(_serve(config, listener, is_worker=True)))


class _Supervisor:
    """Starts the workers on one listener, replaces those that die, and passes signals on."""

    def __init__(self, config: GatewayConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._workers: list[SpawnProcess] = []
        self._last_start = 0.0
        self._signals = 0
        self._exit_code = 0

    def run(self) -> int:
        """Run until all workers have ended after a signal. Return the exit code."""
        with _handle_signals(self._pass_on):
            self._workers = [self._start() for _ in range(self._config.workers)]
            while self._workers:
                wait([worker.sentinel for worker in self._workers])
                self._replace_dead()
        self._listener.close()
        return self._exit_code

    def _start(self) -> SpawnProcess:
        worker = multiprocessing.get_context("spawn").Process(target=_run_worker, args=(self._config, self._listener))
        worker.start()
        self._last_start = time.monotonic()
        return worker

    def _replace_dead(self) -> None:
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            self._workers.remove(worker)
            if self._signals == 0:
                log.error("worker %s ended with exit code %s: starting another one", worker.pid, worker.exitcode)
                time.sleep(max(self._last_start + _RESTART_S - time.monotonic(), 0))  # the next one may end at once too
            if self._signals == 0:
                self._workers.append(self._start())

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self._exit_code = _EXIT_CODE_BASE + number
        for worker in self._workers:
            if worker.pid is not None and worker.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)


@contextlib.contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
