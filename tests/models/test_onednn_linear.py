"""Products with frozen weights: those of PyTorch to rounding, whoever takes them."""

from __future__ import annotations

import copy

import bench_products
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear

from vitucb.models import onednn_linear as products
from vitucb.models.backbone import create_backbone
from vitucb.models.onednn_linear import FastLinear, fast_linear, onednn_linear, use_fast_linear

LARGE, SMALL = (10, 50, 384), (2, 3, 8)
"""Shapes of inputs whose products are oneDNN's and PyTorch's."""


@pytest.fixture(autouse=True, params=["oneDNN", "MKL"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param == "oneDNN")
    return str(request.param)


def make_product(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    weight = torch.randn(2 * shape[-1], shape[-1], generator=generator, dtype=dtype)
    return x, weight, torch.randn(len(weight), generator=generator, dtype=dtype)


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x.double(), weight.double(), None if bias is None else bias.double())


def relative(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_right_to_rounding(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight, some = make_product(shape)
    bias = some if with_bias else None
    y, reference = fast_linear(x, weight, bias), exact(x, weight, bias)
    assert (y.shape, y.dtype) == (reference.shape, torch.float32)
    assert y.is_contiguous()
    assert relative(y, reference) < 1e-6


def test_strided_operands() -> None:
    x, weight, _ = make_product(LARGE)
    # The transposed weight of a backward, tokens in another order, and a column slice.
    for a, b in (
        (x @ weight.mT, weight.mT),
        (x.transpose(0, 1), weight),
        (x[..., ::2], weight[:, ::2]),
    ):
        assert relative(fast_linear(a, b), exact(a, b, None)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_pytorchs(dtype: torch.dtype) -> None:
    x, weight, bias = make_product(LARGE, dtype)
    assert torch.equal(fast_linear(x, weight, bias), linear(x, weight, bias))


def test_the_processor_decides_who_takes_it(processor: str) -> None:
    x, weight, bias = make_product(LARGE)
    expected = linear(x, weight, bias)
    if processor == "oneDNN":
        expected = onednn_linear(x, weight, bias)
    assert torch.equal(fast_linear(x, weight, bias), expected)


def test_products_too_small_to_pay_for_packing_are_pytorchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*operands: object) -> Tensor:
        raise AssertionError("a small product was given to oneDNN")

    monkeypatch.setattr(products, "onednn_linear", refuse)
    for rows, inputs, outputs in ((16, 192, 768), (10, 192, 192)):  # one small image; K tokens
        x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs)
        assert torch.equal(fast_linear(x, weight), linear(x, weight))


def test_rows_of_onednn_do_not_depend_on_the_batch() -> None:
    x, weight, bias = make_product((40, 50, 384))
    whole = onednn_linear(x, weight, bias)
    assert torch.equal(onednn_linear(x[7:20], weight, bias), whole[7:20])


def test_no_rows() -> None:
    assert fast_linear(torch.zeros(0, 384), torch.zeros(768, 384)).shape == (0, 768)


@pytest.mark.filterwarnings("ignore:TF32")
def test_switched_off_with_onednn() -> None:
    x, weight, bias = make_product(LARGE)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(fast_linear(x, weight, bias), linear(x, weight, bias))


def make_layer(*, frozen: bool) -> FastLinear:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(384, 768)).requires_grad_(not frozen)
    use_fast_linear(layer)
    assert isinstance(layer[0], FastLinear)
    return layer[0]


def test_the_gradient_of_the_input() -> None:
    layer, (x, _, _) = make_layer(frozen=True), make_product(LARGE)
    x.requires_grad_(True)
    g = torch.randn(10, 50, 768, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad(layer(x), x, g)
    assert relative(ours, g.double() @ layer.weight.double()) < 1e-6


def test_outputs_may_be_changed_in_place() -> None:
    layer, (x, _, _) = make_layer(frozen=True), make_product(LARGE)
    x.requires_grad_(True)
    y = layer(x)
    y += 1.0  # as EVA adds its bias to queries
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    expected = 2.0 * (exact(x, layer.weight, layer.bias) + 1.0) @ layer.weight.double()
    assert relative(gradient, expected) < 1e-6
    with torch.no_grad():
        assert not layer(x)._is_view()


def test_a_gradient_of_a_gradient_is_refused() -> None:
    layer, (x, _, _) = make_layer(frozen=True), make_product(LARGE)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())


def test_trained_weights_get_their_gradients() -> None:
    layer, (x, _, _) = make_layer(frozen=False), make_product(LARGE)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    layer.zero_grad()
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


def test_a_backbone_is_timms_own_to_rounding() -> None:
    model = create_backbone("vitucb-nano")
    assert not any(type(module) is nn.Linear for module in model.modules())
    timms = copy.deepcopy(model)
    for module in timms.modules():
        if isinstance(module, FastLinear):
            module.__class__ = nn.Linear  # type: ignore[assignment]  # back to timm's
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(model(images), timms(images)) < 1e-6
    assert model.state_dict().keys() == timms.state_dict().keys()


def test_peft_adapts_it() -> None:
    layer = make_layer(frozen=False)
    model = get_peft_model(nn.Sequential(layer), LoraConfig(target_modules=["0"], r=2))
    x = make_product(LARGE)[0]
    model(x).sum().backward()
    assert sum(p.grad is not None for p in model.parameters()) == 2  # lora_A and lora_B


def test_the_table_of_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_products, "REPEATS", 1)
    bench_products.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + len(bench_products.SHAPES)
    assert lines[2].startswith("| 160, 192, 768 (embedded ViT")
