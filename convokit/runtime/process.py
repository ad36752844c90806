"""Name this process, and detect whether another one is alive.

The name has host, boot, process id and process start, so a dead owner on this host is recognized at once. After a fork,
the child opens connections of its own: two processes on one socket would read each other's answers.
"""

from __future__ import annotations

import json
import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from uuid import UUID
from weakref import WeakSet

from convokit.completion.process_turns import RunningTurns, WaitingLines

_HOST_NAMESPACE = "pid:[4026531836]"
"""The initial process namespace of Linux: processes outside of containers are in it."""
running = RunningTurns()
lines = WaitingLines()


class ForkAware(Protocol):
    """Holds connections or threads that a child process must not use."""

    def after_fork(self) -> None:
        """Drop them in the child, without closing what the parent still uses."""


_holders: WeakSet[ForkAware] = WeakSet()


def watch(holder: ForkAware) -> None:
    """Call `holder.after_fork()` in every child process."""
    _holders.add(holder)


def _after_fork() -> None:
    running.clear()
    lines.clear()
    for holder in list(_holders):
        holder.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def owner() -> str:
    """Return the name of this process as an owner."""
    return _make_name(os.getpid())


@lru_cache(maxsize=1)  # by pid: right after a fork the name is another one
def _make_name(pid: int) -> str:
    return json.dumps(
        [_read_machine(), _read_boot() + _read_namespace(), pid, _read_stat(pid)[1]], separators=(",", ":")
    )


def is_alive(name: str, turn_id: UUID) -> bool | None:
    """Return whether the owner of a turn still runs it; None if that cannot be known.

    False: the owner is a process of this host that has ended, or the current process, if it is no longer running the turn
    (for example after KeyboardInterrupt). None: another host or container, or a system without signals to ask with.
    """
    if name == owner():
        return turn_id in running
    try:
        machine, boot, pid, started = json.loads(name)
    except (ValueError, TypeError):
        return None
    if machine != _read_machine():
        return None
    if boot != _read_boot() + _read_namespace():
        return False if _is_boot_over(machine, str(boot)) else None
    if os.name == "nt":  # signal 0 is Ctrl-C on Windows
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and belongs to another user
    except (OSError, TypeError):
        return None
    state, now = _read_stat(pid)
    if state in ("Z", "X"):
        return False
    if not started or not now or state in ("T", "t"):  # a process that is stopped does not run its turn
        return None
    return bool(started == now)


def _is_boot_over(machine: str, boot: str) -> bool:
    """Return whether that boot of this machine is over.

    In a container nobody knows: neighbours may have the same host name, and processes that cannot be seen from here.
    """
    here = _read_boot()
    in_container = _read_namespace() != _HOST_NAMESPACE or not boot.endswith(_HOST_NAMESPACE)
    return bool(here) and not in_container and "/" in machine and not boot.startswith(here)


def _read_machine() -> str:
    """Return the host's name and its machine id, if it has one: many machines are called `localhost`."""
    try:
        number = Path("/etc/machine-id").read_text().strip()
    except OSError:
        number = ""
    return f"{platform.node()}/{number}" if number else platform.node()


def _read_boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_namespace() -> str:
    """Return the name of the process namespace: containers may share a host name without seeing each other's processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read_stat(pid: int) -> tuple[str, str]:
    """Return the state letter of a process and its start in clock ticks since boot; empty on systems without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")
