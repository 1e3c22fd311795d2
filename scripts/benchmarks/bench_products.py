"""Products with frozen weights: PyTorch's own against oneDNN's, side by side.

    python scripts/benchmarks/bench_products.py

Prints a Markdown table of billions of operations a second on one thread, the best of many
interleaved calls, forward (x W' + b) and backward (g W); and who takes them on this processor in
`vitucb.models.onednn_linear`.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from vitucb.cli.bench.scoring import least_times, one_thread
from vitucb.experiment.provenance import processor
from vitucb.models.onednn_linear import onednn_linear
from vitucb.models.processor import prefers_onednn

SHAPES = {
    (160, 192, 768): "embedded ViT, K = 10",
    (500, 384, 1536): "ViT-S/14 at 98 px, K = 10",
    (10, 384, 1536): "one token of each arm",
    (10, 192, 192): "too small for oneDNN",
}
"""(rows, inputs, outputs) -> where they come up."""
REPEATS = 200


def rates(rows: int, inputs: int, outputs: int) -> list[float]:
    """Billions of operations a second: forward and backward by PyTorch, then by oneDNN."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, g = (
        torch.randn(shape, generator=generator)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    times = least_times(
        {
            "torch": lambda: linear(x, weight, bias),
            "torch, backward": lambda: g @ weight,
            "oneDNN": lambda: onednn_linear(x, weight, bias),
            "oneDNN, backward": lambda: onednn_linear(g, weight.mT),
        },
        REPEATS,
    )
    return [2e-6 * rows * inputs * outputs / ms for ms in times.values()]


def main() -> None:
    """Print the table."""
    print("| rows, inputs, outputs | torch | torch, backward | oneDNN | oneDNN, backward |")
    print("|---|---|---|---|---|")
    with one_thread():
        for shape, where in SHAPES.items():
            sizes = ", ".join(f"{size:,}" for size in shape)
            cells = " | ".join(f"{rate:.0f}" for rate in rates(*shape))
            print(f"| {sizes} ({where}) | {cells} |")
    print(f"\n{processor()}: large products are {'oneDNN' if prefers_onednn() else 'PyTorch'}'s")


if __name__ == "__main__":
    main()
