"""The first lines of a worker process; run by path, before anything can be imported.

Takes two arguments: the number of the inherited socket and the id of the parent. The first
thing on the socket is a length and that much JSON: what to import from, which environment
variables other people's libraries shall find when they are imported, and the number of the
inherited file that tells the parent of calls that were begun.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import struct
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, make the world that was asked for, and serve."""
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal speaks to the server
    os.set_inheritable(number, False)
    sock = socket.socket(fileno=number)
    (size,) = struct.unpack("<I", _read(sock, 4))
    orders = json.loads(_read(sock, size))
    _prepare(orders)

    from legato.runtimes.worker.child import serve

    serve(sock, orders["mark"])


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where it can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be watched
        os._exit(1)


def _read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            os._exit(1)
        data += piece
    return bytes(data)


def _prepare(orders: dict[str, object]) -> None:
    hidden, variables, path = orders["hide"], orders["environment"], orders["path"]
    if isinstance(hidden, str) and hidden:
        pattern = re.compile(hidden)
        for name in [name for name in os.environ if pattern.search(name)]:
            del os.environ[name]
    os.environ.pop("PYTHONHOME", None)  # Envoy's, and wrong for whatever is started from here
    if isinstance(variables, dict):
        os.environ.update(variables)
    own = sys.path.pop(0)  # this file's folder: its neighbours are no top-level modules
    if isinstance(path, list):
        # The interpreter's own places come first: a model's environment beats the server's.
        sys.path += [str(entry) for entry in path if entry not in (*sys.path, own)]


if __name__ == "__main__":
    main()
