"""Named places where a test can make this process fail (spec durability, section 12).

``LEGATO_FAULTS="commit.after_write:exit9:3,commit.mid_write:short"`` arms points:
``name:action`` or ``name:action:count``, where ``3`` is the third passage only, ``3+``
that one and all later ones; without a count, every passage. Unless the variable is set,
:func:`fault` does nothing and costs a function call.

Actions: ``exit9`` (SIGKILL to this process), ``stop`` (SIGSTOP), ``sleep=SECONDS``, ``raise``
(:class:`InjectedFaultError`), ``enospc`` and ``eio`` (an ``OSError``). The rest only the place
itself can do, so its name is returned: ``short`` (write half), ``drop`` (lose the reply),
``dup`` (take the message twice).

This is the one module besides ``settings`` that reads the environment: it must be importable
from every room, must decide at import what the calls cost, and works in a child process
that a test starts with nothing but the variable.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import NamedTuple

VARIABLE = "LEGATO_FAULTS"
"""Name of the environment variable."""

_RETURNED = ("short", "drop", "dup")
_ERRNO = {"enospc": errno.ENOSPC, "eio": errno.EIO}


class InjectedFaultError(Exception):
    """What the action ``raise`` raises."""


class Arming(NamedTuple):
    """One armed point: do ``action`` at passage ``first`` (and all later ones)."""

    action: str
    first: int
    onwards: bool


def parse(text: str) -> dict[str, list[Arming]]:
    """Read a specification of faults.

    Raises:
        ValueError: It is malformed or names an unknown action.
    """
    plan: dict[str, list[Arming]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = item.partition(":")
        action, _, count = rest.partition(":")
        count = count or "1+"
        known = action in {"exit9", "stop", "raise", *_ERRNO, *_RETURNED}
        if action.startswith("sleep="):
            known = float(action.removeprefix("sleep=")) >= 0
        if not name or not known:
            raise ValueError(f"{VARIABLE}: '{item}' is not name:action[:count]")
        plan.setdefault(name, []).append(
            Arming(action, int(count.removesuffix("+")), count.endswith("+"))
        )
    return plan


class Faults:
    """Armed points and how often each was passed."""

    def __init__(self, plan: dict[str, list[Arming]]) -> None:
        self._plan = plan
        self._passed: dict[str, int] = {}

    def armed(self, name: str) -> bool:
        """Tell whether anything may happen at this point."""
        return name in self._plan

    def fault(self, name: str) -> str:
        """Pass the point; do or return what is due there, ``""`` for nothing."""
        armings = self._plan.get(name)
        if armings is None:
            return ""
        passed = self._passed.get(name, 0) + 1
        self._passed[name] = passed
        for action, first, onwards in armings:
            if passed == first or (onwards and passed > first):
                return _act(name, action)
        return ""


def _act(name: str, action: str) -> str:
    if action in _RETURNED:
        return action
    if action == "exit9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "raise":
        raise InjectedFaultError(name)
    elif action in _ERRNO:
        raise OSError(_ERRNO[action], os.strerror(_ERRNO[action]), name)
    else:
        time.sleep(float(action.removeprefix("sleep=")))
    return ""


_SPECIFICATION = os.environ.get(VARIABLE, "")

if _SPECIFICATION:
    _FAULTS = Faults(parse(_SPECIFICATION))
    fault = _FAULTS.fault
    armed = _FAULTS.armed
else:

    def fault(name: str) -> str:  # noqa: ARG001 - the shape of the armed one
        """Pass a fault point: nothing is armed in this process."""
        return ""

    def armed(name: str) -> bool:  # noqa: ARG001 - the shape of the armed one
        """Tell whether anything may happen at a point: nothing is armed in this process."""
        return False
