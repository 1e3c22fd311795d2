"""LoRA-RITE beside the port in the package pytorch-optimizer (Apache 2.0), where it is installed.

Both get the recorded gradients of `tests/golden/rite_code_*.npz` and must move the factors alike.
The port adds eps^2 under the root too, hence the tolerance; and it keeps a momentum that was capped
where the recordings cap the step alone, so with capping the two differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.golden.replay import build
from vitucb.models.lora import LoRAPair

peer = pytest.importorskip(
    "pytorch_optimizer", reason="optional: pip install pytorch-optimizer", exc_type=ImportError
)

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("rite_code_*.npz"))
CAPPED = [path for path in FILES if "_cap_" in path.stem]
OPTIONS = (
    "eps", "clip_unmagnified_grad", "update_skipping", "update_capping", "weight_decay",
    "apply_escape", "balance_param",
)  # fmt: skip


def distance(path: Path, **changes: Any) -> float:
    """Largest difference between the port's factors and ours, over all steps of a recording."""
    with np.load(path) as archive:
        data: dict[str, Any] = {key: archive[key] for key in archive.files}
    meta = json.loads(str(data.pop("meta")))
    hyper = meta["hyper"] = meta["hyper"] | changes
    z: dict[str, Tensor] = {key: torch.from_numpy(value) for key, value in data.items()}
    both = [
        [
            LoRAPair(
                "", Parameter(z[f"A{i}"][0].clone()), Parameter(z[f"B{i}"][0].clone()), s, None
            )
            for i, s in enumerate(meta["s"])
        ]
        for _ in range(2)
    ]
    alternating = [p for pair in both[0] for p in (pair.A, pair.B)]
    options = {name: hyper[name] for name in OPTIONS}
    port = peer.LoRARite(alternating, lr=hyper["lr"], betas=tuple(hyper["betas"]), **options)
    ours = build(path.stem, meta, both[1])
    worst = 0.0
    for t in range(meta["T"]):
        for pairs in both:
            for i, pair in enumerate(pairs):
                pair.A.grad, pair.B.grad = z[f"gA{i}"][t].clone(), z[f"gB{i}"][t].clone()
        port.step()
        ours.step()
        for theirs, mine in zip(*both, strict=True):
            gaps = (theirs.A - mine.A, theirs.B - mine.B)
            worst = max(worst, *(float(gap.detach().abs().max()) for gap in gaps))
    return worst


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_port_moves_the_factors_as_ours_does(path: Path) -> None:
    assert distance(path, update_capping=0.0) < 1e-7


@pytest.mark.parametrize("path", CAPPED, ids=lambda p: p.stem)
def test_the_port_keeps_a_capped_momentum(path: Path) -> None:
    assert distance(path) > 1e-3
