"""Products with frozen weights: PyTorch's own against `vitucb.fast_linear`, side by side.

    python scripts/bench_products.py

Prints a Markdown table of billions of operations a second on one thread, the best of many
interleaved calls, forward (x W' + b) and backward (g W).
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from vitucb.bench.scoring import least_times, one_thread
from vitucb.fast_linear import fast_linear

SHAPES = {
    (160, 192, 768): "embedded ViT, K = 10",
    (500, 384, 1536): "ViT-S/14 at 98 px, K = 10",
    (10, 384, 1536): "one token of each arm",
    (10, 192, 192): "too small for oneDNN",
}
"""(rows, inputs, outputs) -> where they come up."""
REPEATS = 200


def rates(rows: int, inputs: int, outputs: int) -> list[float]:
    """Billions of operations a second: forward and backward by PyTorch, then by ours."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, g = (
        torch.randn(shape, generator=generator)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    times = least_times(
        {
            "torch": lambda: linear(x, weight, bias),
            "torch, backward": lambda: g @ weight,
            "ours": lambda: fast_linear(x, weight, bias),
            "ours, backward": lambda: fast_linear(g, weight.mT),
        },
        REPEATS,
    )
    return [2e-6 * rows * inputs * outputs / ms for ms in times.values()]


def main() -> None:
    """Print the table."""
    print("| rows, inputs, outputs | torch | torch, backward | ours | ours, backward |")
    print("|---|---|---|---|---|")
    with one_thread():
        for shape, where in SHAPES.items():
            sizes = ", ".join(f"{size:,}" for size in shape)
            cells = " | ".join(f"{rate:.0f}" for rate in rates(*shape))
            print(f"| {sizes} ({where}) | {cells} |")


if __name__ == "__main__":
    main()
