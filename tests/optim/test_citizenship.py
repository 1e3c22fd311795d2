"""Every optimizer is a good torch.optim citizen."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from tests.optim.problems import Quadratic, run
from vitucb.optim import OPTIMIZERS, LoRAOptimizer, create_optimizer

BATCHED = ("lora-pro", "lora-rite", "lora-muon", "scaled-gd", "scaled-adam", "lora-fa", "lamb")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in OPTIMIZERS},
    "sgd momentum": ("sgd", {"momentum": 0.9}),
    "pro sgd": ("lora-pro", {"base": "sgd"}),
    "pro full": ("lora-pro", {"moments": "full", "weight_decay": 0.1}),
    "pro decays all": ("lora-pro", {"decay": "full", "weight_decay": 0.5}),
    "rite all switches": (
        "lora-rite",
        {"clip_norm": 1.0, "cap_rms": 0.5, "balance": True, "guard": 0.5, "weight_decay": 0.1},
    ),
    "scaled-gd momentum": ("scaled-gd", {"momentum": 0.9, "weight_decay": 0.1}),
    "rac short blocks": ("rac-lora", {"inner_steps": 2}),
    "rac of rite": ("cola", {"inner_steps": 3, "inner": "lora-rite"}),
    "bernoulli page": ("bernoulli-lora", {"estimator": "page"}),
    "bernoulli mvr": ("bernoulli-lora", {"estimator": "mvr", "coin": "model"}),
    "bernoulli ef21": ("bernoulli-lora", {"estimator": "ef21", "k": 4}),
}


def build(problem: Quadratic, key: str, **more: Any) -> Optimizer:
    name, options = VARIANTS[key]
    arguments = {"lr": 0.02, "other_params": [problem.head], "other_lr": 0.01, **options, **more}
    return create_optimizer(name, problem.pairs, **arguments)


def assert_same(left: Quadratic, right: Quadratic) -> None:
    for a, b in zip(left.values(), right.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)
    for a, b in zip(left.snapshot(), right.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("key", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_the_uninterrupted_one(key: str, dtype: torch.dtype) -> None:
    problem = Quadratic.make(dtype=dtype, start="zero")
    optimizer = build(problem, key)
    run(problem, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    values = problem.values()

    resumed = Quadratic.make(dtype=dtype, start="zero")
    other = build(resumed, key, lr=1.0)
    for parameter, value in zip(resumed.parameters(), values, strict=True):
        parameter.data.copy_(value)
    other.load_state_dict(saved)
    for both in ((problem, optimizer), (resumed, other)):
        run(*both, 3)
    assert_same(problem, resumed)


@pytest.mark.parametrize("key", VARIANTS)
def test_deepcopy_and_pickle_continue_bit_for_bit(key: str) -> None:
    problem = Quadratic.make(start="zero")
    optimizer = build(problem, key)
    run(problem, optimizer, 3)
    copies = [copy.deepcopy((problem, optimizer)), pickle.loads(pickle.dumps((problem, optimizer)))]
    run(problem, optimizer, 3)
    for other_problem, other in copies:
        run(other_problem, other, 3)
        assert_same(problem, other_problem)


@pytest.mark.parametrize("key", VARIANTS)
@pytest.mark.parametrize("kind", ["one cycle", "cyclic"])
def test_schedules_that_cycle_momentum_move_it(key: str, kind: str) -> None:
    problem = Quadratic.make(start="zero")
    optimizer = build(problem, key)
    scheduler = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=6)
        if kind == "one cycle"
        else torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.05, step_size_up=2)
    )
    seen = set()
    for _ in range(4):
        run(problem, optimizer, 1)
        scheduler.step()
        group = optimizer.param_groups[0]
        seen.add(group["betas"][0] if "betas" in group else group["momentum"])
    assert len(seen) >= (3 if kind == "one cycle" else 2)
    assert all(value.isfinite().all() for value in problem.values())


@pytest.mark.parametrize("key", VARIANTS)
def test_the_saved_state_shares_no_memory_with_the_optimizer(key: str) -> None:
    problem = Quadratic.make()
    optimizer = build(problem, key)
    run(problem, optimizer, 2)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    run(problem, optimizer, 2)
    for entries, before in zip(saved["state"].values(), frozen["state"].values(), strict=True):
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("key", VARIANTS)
def test_a_loaded_state_is_left_alone_by_the_steps_that_follow(key: str) -> None:
    problem, other = Quadratic.make(), Quadratic.make()
    optimizer = build(problem, key)
    run(problem, optimizer, 2)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    loaded = build(other, key)
    loaded.load_state_dict(saved)
    run(other, loaded, 2)
    for entries, before in zip(saved["state"].values(), frozen["state"].values(), strict=True):
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("key", VARIANTS)
def test_schedulers_work_and_a_zero_rate_moves_nothing(key: str) -> None:
    problem = Quadratic.make()
    optimizer = build(problem, key)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    run(problem, optimizer, 1)
    scheduler.step()
    before = problem.snapshot()
    run(problem, optimizer, 2)
    for old, new in zip(before, problem.snapshot(), strict=True):
        torch.testing.assert_close(old, new, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", BATCHED)
def test_maximize_is_descent_on_the_negated_gradient(name: str) -> None:
    up, down = Quadratic.make(), Quadratic.make()
    optimizers = [build(up, name), build(down, name)]
    optimizers[0].param_groups[0]["maximize"] = True
    for _ in range(3):
        for problem in (up, down):
            problem.closure()
        for pair, source in zip(up.pairs, down.pairs, strict=True):
            assert source.A.grad is not None
            assert source.B.grad is not None
            pair.A.grad, pair.B.grad = -source.A.grad, -source.B.grad
        for optimizer in optimizers:
            optimizer.step()
    assert_same_pairs(up, down)


def assert_same_pairs(left: Quadratic, right: Quadratic) -> None:
    for a, b in zip(left.values()[:-1], right.values()[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("sync_free", [False, True])
def test_a_non_finite_gradient_leaves_the_pair_and_its_state_alone(
    name: str, sync_free: bool
) -> None:
    problem = Quadratic.make()
    optimizer = build(problem, name)
    assert isinstance(optimizer, LoRAOptimizer)
    optimizer.sync_free = sync_free
    run(problem, optimizer, 2)
    bad = problem.pairs[1]
    problem.closure()
    assert bad.B.grad is not None
    bad.B.grad[0, 0] = torch.inf
    before = {n: v.clone() for n, v in optimizer.state[bad.B].items()}
    values = bad.A.detach().clone(), bad.B.detach().clone()
    others = problem.pairs[0].B.detach().clone()
    optimizer.step()
    assert optimizer.nonfinite_skips == 1
    assert torch.equal(bad.A, values[0])
    assert torch.equal(bad.B, values[1])
    assert all(torch.equal(optimizer.state[bad.B][n], v) for n, v in before.items())
    assert not torch.equal(problem.pairs[0].B, others)


@pytest.mark.parametrize("name", [*BATCHED, "pro full", "pro decays all", "rite all switches"])
def test_the_sync_free_step_equals_the_other(name: str) -> None:
    left, right = Quadratic.make(), Quadratic.make()
    for problem, sync_free in ((left, False), (right, True)):
        optimizer = build(problem, name)
        assert isinstance(optimizer, LoRAOptimizer)
        optimizer.sync_free = sync_free
        for step in range(6):
            problem.closure()
            if step == 2:
                assert problem.pairs[2].A.grad is not None
                problem.pairs[2].A.grad[0, 0] = torch.nan
            optimizer.step()
        assert optimizer.nonfinite_skips == 1
    assert_same_pairs(left, right)


@pytest.mark.parametrize("name", BATCHED)
def test_a_missing_gradient_freezes_the_factor_and_two_the_pair(name: str) -> None:
    problem = Quadratic.make()
    optimizer = build(problem, name)
    run(problem, optimizer, 2)
    problem.closure()
    half, gone = problem.pairs[0], problem.pairs[1]
    half.A.grad = gone.A.grad = gone.B.grad = None
    before = {p: p.detach().clone() for p in (half.A, half.B, gone.A, gone.B)}
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in before.items()]
    assert moved == [False, True, False, False]


@pytest.mark.parametrize("name", BATCHED)
def test_the_batch_equals_a_loop_over_pairs(name: str) -> None:
    batched, looped = Quadratic.make(), Quadratic.make()
    together = build(batched, name)
    alone = [create_optimizer(name, [pair], lr=0.02) for pair in looped.pairs]
    for _ in range(5):
        batched.closure()
        together.step()
        looped.closure()
        for optimizer in alone:
            optimizer.step()
    for a, b in zip(batched.snapshot(), looped.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("name", BATCHED)
def test_half_precision_parameters_get_float32_arithmetic(name: str) -> None:
    problem = Quadratic.make(dtype=torch.bfloat16)
    optimizer = build(problem, name, lr=1e-6)
    run(problem, optimizer, 30)
    master = optimizer.state[problem.pairs[0].B]["master"]
    assert master.dtype == torch.float32
    assert torch.equal(master.to(torch.bfloat16), problem.pairs[0].B.detach())
    # Steps of 1e-6 are lost in bfloat16 one by one; the master adds them up.
    start = Quadratic.make(dtype=torch.bfloat16).pairs[0].B.detach().float()
    assert bool((master != start).any())


@pytest.mark.parametrize("name", BATCHED)
def test_writing_a_half_precision_parameter_reaches_its_master(name: str) -> None:
    problem = Quadratic.make(dtype=torch.bfloat16)
    optimizer = build(problem, name)
    run(problem, optimizer, 2)
    with torch.no_grad():
        problem.pairs[0].A.fill_(0.5)
    optimizer.param_groups[0]["lr"] = 0.0
    run(problem, optimizer, 1)
    assert torch.equal(problem.pairs[0].A, torch.full_like(problem.pairs[0].A, 0.5))


def test_pairs_can_have_their_own_groups() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("lora-rite", problem.pairs[:2], lr=0.01)
    assert isinstance(optimizer, LoRAOptimizer)
    optimizer.add_pairs(problem.pairs[2:], lr=0.0)
    before = problem.snapshot()
    run(problem, optimizer, 2)
    moved = [not torch.equal(a, b) for a, b in zip(before, problem.snapshot(), strict=True)]
    assert moved == [True, True, False, False]


@pytest.mark.parametrize("name", ["sgd", "lora-plus", "lora-rite", "rac-lora", "bernoulli-lora"])
def test_a_group_added_later_is_stepped_at_its_rate(name: str) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(name, problem.pairs, lr=0.01)
    run(problem, optimizer, 2)
    late = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizer.add_param_group({"params": late[:1], "lr": 0.5})
    optimizer.add_param_group({"params": late[1:]})
    for parameter in late:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # The first step of AdamW is the rate times the sign.
    for parameter, rate in zip(late, (0.5, 0.01), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 1.0 - rate))
    saved = optimizer.state_dict()
    assert len(saved["param_groups"]) == len(optimizer.param_groups)
    optimizer.load_state_dict(saved)
    optimizer.param_groups[-1]["lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(late[1].detach(), torch.full_like(late[1], 0.99))


@pytest.mark.parametrize("name", ["lora-rite", "adamw", "rac-lora"])
def test_a_non_finite_head_gradient_leaves_the_head_alone(name: str) -> None:
    problem = Quadratic.make()
    optimizer = build(problem, name)
    problem.closure()
    problem.head.grad = torch.full_like(problem.head, torch.nan)
    optimizer.step()
    assert torch.equal(problem.head, torch.ones(3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora-pro", {"x_mode": "symmetry"}, "x_mode: .* one of zero, sylvester.* 'symmetry'"),
        ("lora-pro", {"other_lr": -1.0}, "other_lr -1.0 must not be negative"),
        ("lora-rite", {"betas": (0.9, 1.0)}, r"betas \(0.9, 1.0\) must be in \[0, 1\)"),
        ("lora-pro", {"damping": -1e-2}, "damping -0.01 must not be negative"),
        ("scaled-gd", {"max_step": -1.0}, "max_step -1.0 must not be negative"),
        ("scaled-gd", {"momentum": 2.0}, r"momentum 2.0 must be in \[0, 1\)"),
        ("lora-rite", {"basis_rcond": 1.5}, r"basis_rcond 1.5 must be in \[0, 1\)"),
        ("lora-rite", {"cap_rms": -1.0}, "cap_rms -1.0 must not be negative"),
        ("lora-rite", {"clip_norm": -1.0}, "clip_norm -1.0 must not be negative"),
        ("lora-plus", {"ratio": float("inf")}, "ratio inf must be a positive number"),
        ("rac-lora", {"inner": "lora-fa"}, "inner 'lora-fa' never moves lora_A"),
        ("asymmetric-lora", {"inner": "lora-fa", "trained": "A"}, "never moves lora_A"),
        (
            "lora-rite",
            {"compat": "jax"},
            "compat: expected official or paper or nothing, got 'jax'",
        ),
        ("lora-rite", {"beta": 1}, "no option 'beta'; options: .*balance.*other_lr"),
        ("scaled-adam", {"reg": -1.0}, "reg -1.0 must not be negative"),
        ("rac-lora", {"side": "up"}, "side: expected one of left, right, got 'up'"),
        ("rac-lora", {"inner": "cola"}, "inner 'cola' .* changes the base weights"),
        ("cola", {"inner": "lora-pro", "inner_options": {"decay": "full"}}, "changes the base"),
        (
            "rac-lora",
            {"inner_options": {"betas": [0.9]}},
            "'adamw', option betas: expected 2 values",
        ),
        ("cola", {"inner_options": {"lr": 1.0}}, "inner_options lr: the inner optimizer has those"),
        ("cola", {"inner_options": [1]}, "'cola', option inner_options: expected .* got \\[1\\]"),
        ("adamw", {"betas": "abc"}, "'adamw', option betas: expected list, got 'abc'"),
        ("lora-rite", {"betas": [0.9]}, "'lora-rite', option betas: expected 2 values"),
        ("lora-fa", {"betas": [0.9, "x"]}, r"option betas\[1\]: expected float, got 'x'"),
        ("lamb", {"eps": [1e-8]}, "option eps: expected float"),
        ("rac-lora", {"seed": 1.5}, "option seed: expected int, got 1.5"),
        ("lora-plus", {"base": ["sgd"]}, "option base: expected str"),
        ("rac-lora", {"inner_steps": 0}, "inner_steps 0 must be at least 1"),
        ("bernoulli-lora", {"estimator": "saga"}, "estimator 'saga' must be one of"),
        ("bernoulli-lora", {"p": 2.0}, "p 2.0 must be a probability"),
    ],
)
def test_wrong_values_are_one_line_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_optimizer(name, Quadratic.make().pairs, lr=0.1, **options)
