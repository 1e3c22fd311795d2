"""Seeds that share passes of the model: the same runs, and the same bits whoever else plays."""

from __future__ import annotations

import csv
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitucb.adapter_stack import AdapterStack
from vitucb.cli.bench.optimizers import CountOperations
from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.experiment.engines.job import play_together
from vitucb.experiment.playing import play
from vitucb.experiment.resume import StoppedError
from vitucb.experiment.run_folder import is_finished, run_folder
from vitucb.experiment.sweep import run_jobs
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.reward_model import RewardModel
from vitucb.optim import create_optimizer
from vitucb.parallel_seeds import Table, together, why_alone
from vitucb.storage.state_files import load_state

SIDE, WIDTH, SIZE = 32, 24, 3


def vit(seed: int = 1, **options: Any) -> nn.Module:
    settings = {"img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": 3} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings)
    return model


def reward_model(
    seed: int, dtype: torch.dtype = torch.float64, backbone: nn.Module | None = None, **lora: Any
) -> RewardModel:
    adapted = add_lora(backbone or vit(), rank=2, seed=seed, **lora)
    model = RewardModel(adapted, WIDTH, seed=seed).eval().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    return model


def noise(seed: int, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)


def stack_of(models: Sequence[RewardModel], places: Sequence[int] | None = None) -> AdapterStack:
    stack = AdapterStack(SIZE)
    for place, model in zip(places or range(SIZE), models, strict=True):
        stack.put(place, model)
    return stack


def kind(what: str, inputs: Tensor) -> tuple[str, tuple[int, ...]]:
    return what, tuple(inputs.shape)


def readout(model: RewardModel) -> Callable[[Tensor], Tensor]:
    return lambda hidden: model.head(hidden)[:, 0]


@pytest.mark.parametrize("options", [{}, {"targets": ("qkv", "fc2")}, {"blocks": (-1,)}])
@pytest.mark.parametrize("pooling", [{}, {"global_pool": "avg", "class_token": False}])
def test_features_and_gradients_are_those_of_every_run_alone(
    options: dict[str, Any], pooling: dict[str, Any]
) -> None:
    alone = [reward_model(seed, backbone=vit(**pooling), **options) for seed in range(SIZE)]
    models = [reward_model(seed, backbone=vit(**pooling), **options) for seed in range(SIZE)]
    stack, inputs = stack_of(models), [noise(seed) for seed in range(SIZE)]
    features = stack.answer(kind("features", inputs[0]), dict(enumerate(inputs)))
    asked = {p: (inputs[p], readout(models[p])) for p in range(SIZE)}
    gradients = stack.answer(kind("gradients", inputs[0]), asked)
    for place, model in enumerate(alone):
        with torch.no_grad():
            expected = model.features(inputs[place])
        torch.testing.assert_close(features[place], expected, rtol=1e-9, atol=1e-11)
        phi = LoRAGradientFeatures(model)(inputs[place])[1]
        torch.testing.assert_close(gradients[place], phi, rtol=1e-9, atol=1e-11)


def test_training_gradients_are_those_of_every_run_alone() -> None:
    alone, models = ([reward_model(seed) for seed in range(SIZE)] for _ in range(2))
    stack, inputs = stack_of(models), [noise(seed) for seed in range(SIZE)]

    def objective(model: RewardModel) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def aim(hidden: Tensor) -> tuple[Tensor, Tensor]:
            loss = (model.head(hidden)[:, 0] - 1).square().mean()
            return loss, loss

        return aim

    asked = {p: (inputs[p], objective(models[p])) for p in range(SIZE)}
    losses = stack.answer(kind("train", inputs[0]), asked)
    for place, model in enumerate(alone):
        loss = objective(model)(model.features(inputs[place]))[0]
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.testing.assert_close(losses[place], loss.detach(), rtol=1e-12, atol=0)
        ours = dict(models[place].named_parameters())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)


def test_bits_depend_on_the_place_and_on_nobody_else() -> None:
    dtype, inputs = torch.float32, noise(1, dtype=torch.float32)
    every = [reward_model(seed, dtype) for seed in range(SIZE)]
    asked = {p: (noise(p, dtype=dtype), readout(every[p])) for p in range(SIZE)}
    among_others = stack_of(every).answer(kind("gradients", inputs), asked)[1]
    one = reward_model(1, dtype)
    by_itself = stack_of([one], [1]).answer(kind("gradients", inputs), {1: (inputs, readout(one))})[
        1
    ]
    assert torch.equal(among_others, by_itself)


def test_one_that_fails_leaves_the_others_theirs() -> None:
    models = [reward_model(seed) for seed in range(SIZE)]

    def broken(hidden: Tensor) -> Tensor:
        raise ValueError("mine alone")

    asked = {p: (noise(p), broken if p == 1 else readout(models[p])) for p in range(SIZE)}
    answers = stack_of(models).answer(kind("gradients", noise(0)), asked)
    assert isinstance(answers[1], ValueError)
    phi = LoRAGradientFeatures(reward_model(2))(noise(2))[1]
    torch.testing.assert_close(answers[2], phi, rtol=1e-9, atol=1e-11)


def test_frozen_weights_are_held_once_and_must_be_equal() -> None:
    models = [reward_model(seed) for seed in range(2)]
    stack_of(models, [0, 1])
    frozen = [
        {n: p for n, p in m.backbone.named_parameters() if not p.requires_grad} for m in models
    ]
    assert all(p.data_ptr() == frozen[1][n].data_ptr() for n, p in frozen[0].items())
    with pytest.raises(ValueError, match="differs between seeds"):
        stack_of([reward_model(0), reward_model(1, backbone=vit(seed=2))], [0, 1])
    with pytest.raises(ValueError, match="plain LoRA"):
        stack_of([reward_model(0, use_dora=True)], [0])


def test_frozen_weights_that_change_are_noticed() -> None:
    models = [reward_model(seed) for seed in range(2)]
    stack = stack_of(models, [0, 1])
    base = lora_pairs(models[1])[0].base
    assert base is not None
    with torch.no_grad():
        base.add_(1.0)
    with pytest.raises(RuntimeError, match="changed frozen weights"):
        stack.answer(kind("features", noise(1)), {1: noise(1)})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vitucb.optim.chains.cola:COLA", {"inner_steps": 1}),
        ("lora-pro", {"decay": "full", "weight_decay": 0.1}),
    ],
)
def test_an_optimizer_that_writes_frozen_weights_is_noticed(
    name: str, options: dict[str, Any]
) -> None:
    model = reward_model(1)
    stack = stack_of([model], [1])
    optimizer = create_optimizer(name, model, lr=0.1, **options)
    for pair in lora_pairs(model):
        pair.A.grad, pair.B.grad = torch.ones_like(pair.A), torch.ones_like(pair.B)
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed frozen weights"):
        stack.answer(kind("features", noise(1)), {1: noise(1)})


def test_a_shared_pass_takes_a_fraction_of_the_operations() -> None:
    models = [reward_model(seed) for seed in range(SIZE)]
    with CountOperations() as alone:
        for place, model in enumerate(models):
            LoRAGradientFeatures(model)(noise(place))
    stack = stack_of([reward_model(seed) for seed in range(SIZE)])
    asked = {p: (noise(p), readout(models[p])) for p in range(SIZE)}
    stack.answer(kind("gradients", noise(0)), asked)
    with CountOperations() as shared:
        stack.answer(kind("gradients", noise(0)), asked)
    assert shared.count < alone.count / 2


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    base = {
        "out": str(tmp_path),
        "env": {"dataset": "digits"},
        "agent": {"lora": {"blocks": (-1,)}},
        "num_rounds": 20,
        "tensorboard": False,
        "parallel": {"seeds": SIZE},
    }
    return override(RunConfig(), base | changes)


def seeds_of(job: RunConfig, count: int = SIZE) -> list[RunConfig]:
    return [dataclasses.replace(job, seed=seed) for seed in range(count)]


def rounds(job: RunConfig) -> list[tuple[str, str]]:
    with (run_folder(job) / "rounds.csv").open(newline="") as file:
        return [(row["action"], row["reward"]) for row in csv.DictReader(file)]


def adapters(job: RunConfig) -> dict[str, Tensor]:
    state = load_state(run_folder(job) / "checkpoint")
    model: dict[str, Tensor] = state["trainer"]["model"]
    return model


@pytest.mark.parametrize(
    ("agent", "env"),
    [
        ({}, {}),
        ({"features": "last-layer"}, {"id": "vitucb/ImageContext-v0", "num_arms": None}),
        ({"features": "both", "covariance": "low-rank", "policy": "thompson"}, {}),
        (
            {"head": "gradient", "precision": "bfloat16", "optimizer": "lora-rite"},
            {"delay": {"law": "geometric", "rounds": 3}, "arm_subset": {"min_arms": 2}},
        ),
    ],
)
def test_runs_together_are_the_runs_alone(
    tmp_path: Path, agent: dict[str, Any], env: dict[str, Any]
) -> None:
    changes = {"agent": {"lora": {"blocks": (-1,)}} | agent, "env": {"dataset": "digits"} | env}
    shared = seeds_of(config(tmp_path / "shared", **changes), 2)
    alone = seeds_of(config(tmp_path / "alone", parallel={"seeds": 1}, **changes), 2)
    assert play_together(shared) == [None] * 2
    for ours, theirs in zip(shared, alone, strict=True):
        play(theirs)
        assert rounds(ours) == rounds(theirs)
        for name, tensor in adapters(theirs).items():
            torch.testing.assert_close(adapters(ours)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_run_by_itself_has_the_bits_of_the_run_among_others(tmp_path: Path) -> None:
    jobs = seeds_of(config(tmp_path / "all"))
    assert play_together(jobs) == [None] * SIZE
    by_itself = dataclasses.replace(jobs[1], out=str(tmp_path / "one"))
    play(by_itself)
    assert rounds(jobs[1]) == rounds(by_itself)
    for name, tensor in adapters(jobs[1]).items():
        assert torch.equal(adapters(by_itself)[name], tensor), name


def test_stopped_together_and_taken_up_again(tmp_path: Path) -> None:
    whole = seeds_of(config(tmp_path / "whole"))
    assert play_together(whole) == [None] * SIZE
    parts = seeds_of(config(tmp_path / "parts"))
    stop = threading.Event()
    seats = Table(parts).seats(stop)

    def work(job: RunConfig, number: int) -> None:
        def stop_after(round: Any) -> None:
            if number == 0 and round.index == 8:
                stop.set()

        try:
            with pytest.raises(StoppedError):
                play(job, stop_after, seats[number])
        finally:
            seats[number].leave()

    threads = [threading.Thread(target=work, args=(job, n)) for n, job in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(is_finished(run_folder(job)) for job in parts)
    assert play_together(parts) == [None] * SIZE
    for ours, theirs in zip(parts, whole, strict=True):
        assert rounds(ours) == rounds(theirs)
        assert all(torch.equal(adapters(ours)[n], t) for n, t in adapters(theirs).items())


def test_groups_are_one_setting_and_neighbouring_seeds(tmp_path: Path) -> None:
    job = config(tmp_path)
    other = override(job, {"agent": {"policy": {"alpha": 1.0}, "label": "bold"}})
    lone = override(job, {"agent": "random", "parallel": {"seeds": 1}})
    groups = together([*seeds_of(job, 5), *seeds_of(other, 2), *seeds_of(lone, 2)])
    assert [[run.seed for run in group] for group in groups] == [
        [0, 1, 2],
        [3, 4],
        [0, 1],
        [0],
        [1],
    ]


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ({"name": "lin-ucb"}, "no adapters to stack"),
        ({"optimizer": {"name": "rac-lora"}}, "changes frozen weights"),
        ({"optimizer": {"name": "vitucb.optim.chains.cola:COLA"}}, "COLA changes frozen weights"),
        (
            {"optimizer": {"name": "lora-pro", "options": {"decay": "full"}}},
            "lora-pro with {'decay': 'full'} changes frozen weights",
        ),
        ({"lora": {"use_dora": True}}, "DoRA"),
        ({"training": {"rebuild": "replay"}, "readout": "head"}, "a pass of its own"),
    ],
)
def test_what_cannot_share_says_why(tmp_path: Path, agent: Any, reason: str) -> None:
    job = config(tmp_path, agent=agent)
    assert reason in str(why_alone(job))
    with pytest.raises(ValueError, match=reason):
        play(job)


def test_sweep_shares_where_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--out", str(tmp_path), "--seeds", "2", "--parallel-seeds", "2"]
    words += ["--env.dataset", "digits", "--num-rounds", "6", "--no-tensorboard", "--workers", "1"]
    main([*words, "--agent.lora.blocks", "-1", "--grid", "agent.name=vit-ucb,random"])
    assert "one by one where agent random" in capsys.readouterr().err
    folders = sorted((tmp_path / "default").glob("*/config.yaml"))
    shared = {path.parent.name: "seeds: 2" in path.read_text() for path in folders}
    assert len(shared) == 4
    assert all(is_shared == name.startswith("vit-ucb") for name, is_shared in shared.items())


def test_engines_without_a_common_process_refuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by itself"):
        run_jobs([config(tmp_path)], engine="ray")
