"""How surprising is a measurement, after all that this sequence has sent before?"""

import torch


class Surprise(torch.nn.Module):
    """Keeps a running mean and variance of each sensor, in buffers.

    It is written for one stream, as one would for a device: nothing in it knows of sequences.
    """

    def __init__(self, sensors: int, memory: float) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mean", torch.zeros(1, sensors))
        self.register_buffer("variance", torch.ones(1, sensors))

    def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Score the values of a step, then remember them."""
        off = values - self.mean
        score = off.abs() / self.variance.sqrt()
        self.mean += (1 - self.memory) * off
        self.variance.mul_(self.memory).add_((1 - self.memory) * off**2)
        return {"score": score}
