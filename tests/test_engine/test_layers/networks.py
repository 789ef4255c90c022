"""Small networks for tests about layers, each with a trap."""

import torch
from torch import nn


class Block(nn.Module):
    """A residual block with two children of one class, as an attention of two kinds has."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x + self.scale * self.first(self.norm(x))


class Shuffled(nn.Module):
    """Registered in an order that isn't the order of execution."""

    def __init__(self, width=4):
        super().__init__()
        self.classifier = nn.Linear(width, 3)
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.unused = nn.Linear(width, width)
        self.late_token = nn.Parameter(torch.zeros(width))
        self.norm = nn.BatchNorm1d(width)
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.zeros(width))

    #: The units in the order in which they run, norms and tokens where they belong, and what
    #: doesn't run behind what is registered before it.
    LAYERS = [
        ['stem', 'position'],
        ['blocks.2', 'unused'],
        ['blocks.0', 'late_token'],
        ['blocks.1', 'norm'],
        ['classifier'],
    ]

    def forward(self, x):
        x = self.stem(x).mean((2, 3)) + self.position
        x = self.blocks[0](self.blocks[2](x)) + self.late_token
        return self.classifier(self.norm(self.blocks[1](x)))


class DataDependent(nn.Module):
    """No forward pass without data: it branches on a value."""

    def __init__(self):
        super().__init__()
        self.middle, self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.middle(self.stem(x))
        return self.head(x if x.sum().item() > 0 else -x)


class Unrunnable(DataDependent):
    """No forward pass at all on one tensor."""

    def forward(self, source, target):
        raise AssertionError


def layer_names(model, layers):
    """Expand module names into the names of the parameters below them."""
    return [
        [
            name
            for name, _ in model.named_parameters()
            if any(f'{name}.'.startswith(f'{part}.') for part in layer)
        ]
        for layer in layers
    ]
