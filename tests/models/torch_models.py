"""PyTorch modules that remember, and files of them. Imported only where torch is."""

from __future__ import annotations

import collections
import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class Recurrent(nn.Module):
    """A GRU cell whose state is a buffer, and a counter beside it."""

    def __init__(self, size: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.inner = nn.Linear(size, hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        self.register_buffer("h", torch.zeros(1, hidden))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.full((hidden,), 2.0))

    def forward(self, x):
        self.h.copy_(self.cell(torch.relu(self.inner(x)) * self.scale, self.h))
        self.count.add_(1)
        return {"y": self.h.sum(-1, keepdim=True), "seen": self.count * torch.ones(1, 1)}


class Convolution(nn.Module):
    """A causal convolution with its past in a buffer; its shapes fix a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(2, 3, 8)
        self.register_buffer("past", torch.zeros(1, 2, 7))

    def forward(self, x):
        whole = torch.cat([self.past, x], 2)
        self.past.copy_(whole[:, :, -7:])
        return self.filter(whole).view(1, -1)


class Flat(nn.Module):
    """A module that knows nothing of batches: vectors in, a number out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4) * 0.5)
        self.register_buffer("h", torch.zeros(4))

    def forward(self, x):
        self.h.copy_(torch.tanh(self.weight @ self.h + x))
        return self.h.sum()


class Normed(nn.Module):
    """Divides by the largest value: rows side by side would influence one another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x):
        self.h = self.h * 0.9 + x
        return self.h / self.h.abs().max()


class Positioned(nn.Module):
    """Looks at the position of its only row; another row's would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("position", torch.zeros(1))

    def forward(self, x):
        self.position.add_(1)
        return x * self.position[0]


class Branching(nn.Module):
    """Decides by its state in Python: no two rows can be run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x):
        if self.h.sum() > 1:
            self.h = torch.zeros_like(self.h)
        self.h = self.h + x.abs()
        return self.h * 2


class Late(nn.Module):
    """Touches a second buffer only when the first has grown."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 2))
        self.register_buffer("late", torch.zeros(1, 2))

    def forward(self, x):
        self.h = self.h + x.abs()
        if self.h.sum() > 100:
            self.late += 1
        return self.h + self.late


class LateScript(nn.Module):
    """Writes into a buffer, but only when it is given something large."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("late", torch.zeros(1, 2))

    def forward(self, x):
        if bool(x.sum() > 100):
            self.late.add_(1)
        return x + self.late


class Attribute(nn.Module):
    """Keeps a tensor and a number in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.h = torch.zeros(1, 2)

    def forward(self, x: torch.Tensor):
        self.steps += 1
        self.h = self.h * 0.5 + x
        return self.h * self.steps


class Queue(nn.Module):
    """Keeps its past where nobody can see it."""

    def __init__(self) -> None:
        super().__init__()
        self.past: Any = collections.deque(maxlen=4)

    def forward(self, x):
        self.past.append(x.clone())
        return sum(self.past)


class Explicit(nn.Module):
    """Takes its state as an argument and returns the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.out(state), state


class Pair(nn.Module):
    """Takes and returns its state as a tuple, as ``nn.LSTMCell`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)

    def forward(self, x, hx: tuple[torch.Tensor, torch.Tensor]):
        h, c = self.cell(x, hx)
        return h.sum(-1, keepdim=True), (h, c)


class Writes(nn.Module):
    """Changes the state that it is handed in place."""

    def forward(self, x, h):
        h.mul_(0.5).add_(x)
        return h * 2


class Accumulator(nn.Module):
    """Triton's example of implicit state: a sum that START begins anew."""

    def forward(self, x, total, start):
        total = torch.where(start > 0, x, total + x)
        return total * 2, total


def seeded(module: type[nn.Module], **arguments: Any) -> nn.Module:
    """Build a module with weights that are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return module(**arguments).eval().requires_grad_(requires_grad=False)


def export(
    module: nn.Module, folder: Path, *example: Any, name: str = "model", **more: Any
) -> Path:
    """Write a module as an exported program."""
    path = folder / f"{name}.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, example, **more), path)
    return path


def script(module: nn.Module, folder: Path, name: str = "model") -> Path:
    """Write a module as TorchScript."""
    path = folder / f"{name}.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def trace(module: nn.Module, folder: Path, *example: Any, name: str = "model") -> Path:
    """Write a module as traced TorchScript."""
    path = folder / f"{name}.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, example).save(str(path))
    return path


class Private:
    """A copy of a module for each sequence: what every answer is measured by."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._copies: dict[int | str, nn.Module] = {}

    def step(self, sequence: int | str, *rows: np.ndarray) -> Any:
        """Run the next step of a sequence on its own copy."""
        copy_of = self._copies.setdefault(sequence, copy.deepcopy(self._module))
        with torch.no_grad():
            return copy_of(*[torch.from_numpy(row.copy()) for row in rows])
