"""Feature maps: gradients of the right thing, blocks of the last layer, centring and length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vitucb.covariance.countsketch import CountSketch
from vitucb.learning.feature_maps import FeatureScale, GradientMap, LastLayerMap
from vitucb.models.lora import lora_pairs
from vitucb.models.reward_model import RewardModel


@pytest.fixture(scope="module")
def model() -> RewardModel:
    import timm

    from vitucb.models.lora import add_lora

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=2, num_classes=0
        )
    model = RewardModel(add_lora(backbone, rank=2), 12, num_outputs=3).eval().double()
    generator = torch.Generator().manual_seed(3)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    return model


def images(arms: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(arms, 3, 16, 16, generator=generator, dtype=torch.float64)


def by_autograd(model: RewardModel, readout: Tensor, x: Tensor, actions: Tensor) -> Tensor:
    factors = [factor for pair in lora_pairs(model) for factor in (pair.A, pair.B)]
    rows = []
    for image, action in zip(x, actions.tolist(), strict=True):
        score = model.features(image[None])[0] @ readout[action]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(score, factors)]))
    return torch.stack(rows)


def test_gradients_are_those_of_the_chosen_output(model: RewardModel) -> None:
    x, actions = images(4), torch.tensor([0, 2, 1, 2])
    scores, phi = GradientMap(model, fixed_readout=False)(x, actions)
    torch.testing.assert_close(scores, model(x).detach()[torch.arange(4), actions])
    expected = by_autograd(model, model.head.weight.detach(), x, actions)
    torch.testing.assert_close(phi, expected, rtol=1e-10, atol=1e-12)


def test_features_that_keep_their_intercept_are_only_brought_to_length_1() -> None:
    scale, phi = FeatureScale([3, 2], is_centring=False), torch.randn(4, 5)
    assert not scale.needs_centre
    groups = [torch.nn.functional.normalize(phi[:, part]) for part in (slice(3), slice(3, 5))]
    torch.testing.assert_close(scale(phi), torch.cat(groups, dim=1))


def test_fixed_readout_does_not_turn_with_the_head(model: RewardModel) -> None:
    x, actions = images(3), torch.tensor([0, 1, 2])
    features = GradientMap(model, fixed_readout=True)
    prior = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    scores, phi = features(x, actions)
    live = model(x).detach()[torch.arange(3), actions]
    with torch.no_grad():
        model.head.weight.copy_(prior)
    torch.testing.assert_close(scores, live)
    torch.testing.assert_close(phi, by_autograd(model, prior, x, actions), rtol=1e-10, atol=1e-12)


def test_projection_is_that_of_the_features(model: RewardModel) -> None:
    x, actions = images(3), torch.zeros(3, dtype=torch.int64)
    plain = GradientMap(model)
    projection = CountSketch(plain.dims[0], 64, seed=0)
    projected = GradientMap(model, projection=projection)
    assert projected.dims == [64]
    expected = projection(plain.unprojected(x, actions))
    torch.testing.assert_close(projected(x, actions)[1], expected, rtol=1e-9, atol=1e-12)


def test_both_groups_come_from_one_pass(model: RewardModel) -> None:
    x, actions = images(3), torch.tensor([1, 1, 0])
    both = GradientMap(model, with_last_layer=True)
    _, phi = both(x, actions)
    _, gradients = GradientMap(model)(x, actions)
    _, last = LastLayerMap(model)(x, actions)
    assert both.dims == [gradients.shape[1], last.shape[1]]
    torch.testing.assert_close(phi, torch.cat([gradients, last], dim=1))


def test_last_layer_is_in_the_block_of_the_output(model: RewardModel) -> None:
    x, actions = images(2), torch.tensor([2, 0])
    scores, phi = LastLayerMap(model)(x, actions)
    head = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach()
    torch.testing.assert_close(phi @ head.flatten(), scores)
    gradients = torch.autograd.grad(model(x)[0, 2], [model.head.weight, model.head.bias])
    row = torch.cat([gradients[0], gradients[1][:, None]], dim=1)
    torch.testing.assert_close(phi[0], row.flatten())
    assert int((phi.view(2, 3, -1).abs().sum(2) > 0).sum()) == 2


def test_an_image_shared_by_all_actions_runs_once(model: RewardModel) -> None:
    x, actions, seen = images(1), torch.tensor([0, 2, 1]), []
    handle = model.backbone.register_forward_hook(lambda _, x, y: seen.append(len(y)))
    shared = LastLayerMap(model)
    shared(x.expand(3, -1, -1, -1), actions)  # compares with the layers of PEFT first
    seen.clear()
    scores, phi = shared(x.expand(3, -1, -1, -1), actions)
    handle.remove()
    assert seen == [1]
    expected = LastLayerMap(model)(x.repeat(3, 1, 1, 1), actions)
    torch.testing.assert_close(scores, expected[0])
    torch.testing.assert_close(phi, expected[1])
    gradients = GradientMap(model)
    torch.testing.assert_close(
        gradients(x.expand(3, -1, -1, -1), actions), gradients(x.repeat(3, 1, 1, 1), actions)
    )


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3))
def test_scale_knows_neither_unit_nor_origin(factor: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    results = []
    for rows in (phi, factor * (phi + shift)):
        scale = FeatureScale([3, 2])
        scale.centre_on(rows)
        results.append(scale(rows))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
    norms = [part.norm(dim=1) for part in torch.split(results[0], [3, 2], dim=1)]
    torch.testing.assert_close(torch.stack(norms), torch.ones(2, 6, dtype=torch.float64))


def test_zero_stays_zero_and_non_finite_features_are_refused() -> None:
    scale = FeatureScale([2])
    scale.centre_on(torch.ones(3, 2))
    assert float(scale(torch.ones(1, 2)).abs().max()) == 0.0
    with pytest.raises(ValueError, match="not finite"):
        scale.centre_on(torch.full((1, 2), float("nan")))


def test_model_with_one_output_gives_one_score_per_image(model: RewardModel) -> None:
    single = RewardModel(nn.Flatten(), 4)
    assert single(torch.zeros(5, 4)).shape == (5,)
    assert model(images(2)).shape == (2, 3)
