"""Small networks that start at f = 0, the gradients of their scores, and a memory to train on."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap


class WideNetwork(Protocol):
    """A network with a hidden width m and a linear output layer."""

    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """Scores of inputs (n, ...): (n, outputs)."""
        ...


class TwoLayer(nn.Module):
    """sqrt(m) V relu(W x) with entries of V and W from N(0, 2 / m); x has unit norm."""

    def __init__(
        self, num_inputs: int, width: int, num_outputs: int, generator: torch.Generator
    ) -> None:
        """Draw m / 2 hidden units: the other half is the copy of `SymmetricNetwork`."""
        super().__init__()
        self.width = width
        deviation = math.sqrt(2 / width)
        self.hidden = nn.Parameter(torch.empty(width // 2, num_inputs))
        self.output = nn.Parameter(torch.empty(num_outputs, width // 2))
        with torch.no_grad():
            self.hidden.normal_(0.0, deviation, generator=generator)
            self.output.normal_(0.0, deviation, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of x (n, d): (n, outputs)."""
        scores: Tensor = math.sqrt(self.width) * torch.relu(x @ self.hidden.mT) @ self.output.mT
        return scores


class SmallCNN(nn.Module):
    """Three strided 3x3 convolutions, mean pooling, a linear output; on pixels."""

    def __init__(self, width: int, num_outputs: int, generator: torch.Generator) -> None:
        """Draw m / 2 channels in the last layer (He et al., 2015); biases start at 0."""
        super().__init__()
        self.width = width
        channels = (3, 16, 32, width // 2)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1, device="meta")
            for i, o in itertools.pairwise(channels)
        )
        self.output = nn.Linear(width // 2, num_outputs, bias=False, device="meta")
        # Made without weights: the first would be drawn from the global generator.
        self.to_empty(device="cpu")
        with torch.no_grad():
            for conv in self.convs:
                assert isinstance(conv, nn.Conv2d)
                fan_in = conv.weight[0].numel()
                conv.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
                assert conv.bias is not None
                conv.bias.zero_()
            self.output.weight.normal_(0.0, math.sqrt(2 / width), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of pixels (n, 3, H, W): (n, outputs)."""
        for conv in self.convs:
            x = torch.relu(conv(x))
        scores: Tensor = self.output(x.mean(dim=(2, 3)))
        return scores


class SymmetricNetwork(nn.Module):
    """The difference of two copies of a network, so that f(x; theta_0) = 0 for every x.

    For `TwoLayer` this is the initialisation of Zhou et al. 2020 with the coordinates left out
    that their doubled input [x; x] / sqrt(2) makes redundant: scores and inner products of
    gradients are the same.
    """

    def __init__(self, network: nn.Module) -> None:
        """Copy `network`, a `WideNetwork`."""
        super().__init__()
        self.plus, self.minus = network, copy.deepcopy(network)
        self.width: int = network.width  # type: ignore[assignment]  # a WideNetwork

    @property
    def num_parameters(self) -> int:
        """Number of parameters p."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Scores of inputs (n, ...): (n, outputs)."""
        scores: Tensor = self.plus(x) - self.minus(x)
        return scores

    def scores_and_gradients(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """One output for each input, and its gradient in all parameters.

        Args:
            inputs: (n, ...).
            outputs: Which output to take, int64 (n,).

        Returns:
            Scores (n,) and gradients (n, p), parameters flattened in order; both detached.
        """
        parameters = {name: p.detach() for name, p in self.named_parameters()}

        def score(parameters: dict[str, Tensor], x: Tensor, k: Tensor) -> Tensor:
            row: Tensor = functional_call(self, parameters, (x[None],))[0]
            return row.gather(0, k[None])[0]

        per_input = vmap(grad_and_value(score), in_dims=(None, 0, 0))
        gradients, scores = per_input(parameters, inputs, outputs)
        return scores, torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)
