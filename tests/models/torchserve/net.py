"""The small network of an archive's ``modelFile``; its weights come as a state dict."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.dropout = nn.Dropout(0.25)
        self.out = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        x = torch.flatten(torch.relu(self.conv(x)), 1)
        return self.out(self.dropout(x))
