"""The exact covariances against each other on LoRA gradients of the embedded pretrained ViT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from vitucb.covariance import make_covariance
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import preprocess_for
from vitucb.models.reward_model import RewardModel


@pytest.fixture(scope="module")
def features() -> Tensor:
    backbone = create_backbone("vitucb-nano")
    preprocess = preprocess_for(backbone, "cpu")
    model = RewardModel(add_lora(backbone, rank=1, targets=["qkv", "proj"], blocks=[-1]), 192)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.02, generator=generator)
    digits = (load_digits().images[:70, :, :, None] * 15).astype(np.uint8)
    images = preprocess(digits).double()
    phi = torch.cat([LoRAGradientFeatures(model)(chunk)[1] for chunk in torch.split(images, 10)])
    scaled: Tensor = phi / phi.square().sum(1).mean().sqrt()
    return scaled


@pytest.mark.parametrize("ridge", [1.0, 1e-2])
def test_exact_equals_dense_on_lora_gradients(features: Tensor, ridge: float) -> None:
    rows, queries = features[:60], features[60:]
    exact, dense = (
        make_covariance(name, features.shape[1], ridge=ridge) for name in ("exact", "dense")
    )
    for row in rows:
        for covariance in (exact, dense):
            covariance.quad_form(torch.stack([queries[0], row]))
            covariance.update(index=1)
    expected = dense.quad_form(queries)
    torch.testing.assert_close(exact.quad_form(queries), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(exact.solve(queries), dense.solve(queries), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(exact.cov(queries), dense.cov(queries), rtol=1e-9, atol=1e-12)
    assert exact.log_det == pytest.approx(dense.log_det, rel=1e-9)


def test_sketch_intervals_hold_on_lora_gradients(features: Tensor) -> None:
    rows, queries = features[:60], features[60:]
    exact = make_covariance("exact", features.shape[1], ridge=0.1)
    exact.update(rows)
    for name in ("low-rank", "frequent-directions"):
        sketch = make_covariance(name, features.shape[1], ridge=0.1, rank=8)
        sketch.update(rows)
        low, up = sketch.interval(queries)
        squares = exact.quad_form(queries)
        assert ((low <= squares) & (squares <= up)).all()
