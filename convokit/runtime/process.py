"""Who holds a turn: host, boot, process and its start, so that a dead owner on this host is known at once.

After a fork the child starts with connections of its own: two processes on one socket read each other's answers.
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

_HOST_NAMESPACE = "pid:[4026531836]"
"""The process namespace that Linux starts with: outside of containers."""
running: set[UUID] = set()
"""The turns that this process is running."""


class Forked(Protocol):
    """Holds something that must not cross a fork."""

    def forked(self) -> None:
        """Let go of it, in the child, without touching what the parent still uses."""


_holders: WeakSet[Forked] = WeakSet()


def watch(holder: Forked) -> None:
    """Have `holder.forked()` called in every child process."""
    _holders.add(holder)


def _in_child() -> None:
    running.clear()
    for holder in list(_holders):
        holder.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def owner() -> str:
    """Return this process's name as an owner. Right after a fork too: it is read once for each process."""
    return _name(os.getpid())


@lru_cache(maxsize=1)
def _name(pid: int) -> str:
    return json.dumps([_machine(), _boot() + _namespace(), pid, _started(pid)], separators=(",", ":"))


def is_dead(name: str, turn_id: UUID) -> bool:
    """Return True only if the turn's owner is known to be gone: a process of this host that runs no more, or this very one
    when the turn was torn away from it (an interrupt in the wrong moment, a generator that was thrown away)."""
    if name == owner():
        return turn_id not in running
    try:
        machine, boot, pid, started = json.loads(name)
    except (ValueError, TypeError):
        return False
    if machine != _machine():
        return False
    if boot != _boot() + _namespace():
        return _rebooted(machine, str(boot))
    if os.name == "nt":  # where signal 0 is Ctrl-C: there the lease decides
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OSError, TypeError):
        pass
    now = _started(pid)
    return bool(started and now and started != now)


def _rebooted(machine: str, boot: str) -> bool:
    """Return whether that boot of this machine is over. In a container nobody knows: its neighbours have names like its own,
    and processes that cannot be seen from here."""
    here = _boot()
    in_container = _namespace() != _HOST_NAMESPACE or not boot.endswith(_HOST_NAMESPACE)
    return bool(here) and not in_container and "/" in machine and not boot.startswith(here)


def _machine() -> str:
    """Return the host's name and, where it has one, its machine id: names like `localhost` are many machines'."""
    try:
        number = Path("/etc/machine-id").read_text().strip()
    except OSError:
        number = ""
    return f"{platform.node()}/{number}" if number else platform.node()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """Return the process namespace's name: containers may share a host's name and see none of each other's processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the process's start in clock ticks since boot, or nothing where /proc is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    if fields and fields[0] in "ZX":
        return "dead"
    return fields[19] if len(fields) > 19 else ""
