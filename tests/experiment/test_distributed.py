"""Ranks agree bit for bit after a sync, have the covariance of all choices, and can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitucb.config import ParallelConfig, RunConfig, load_config, override, save_config
from vitucb.experiment.distributed.ranks import RankLostError, all_ranks, at_this_rank, rank_seed
from vitucb.experiment.loop_hook import Wishes
from vitucb.experiment.run_folder import is_finished, run_folder
from vitucb.learning.split import WholeBatch

SAME_BYTES = ("rounds.csv", "metrics.csv", "summary.json", "gallery.npz")
TINY: dict[str, Any] = {
    "experts": ["adapted"],
    "training": {"batch_size": 4},
    "lora": {"rank": 2, "blocks": [-1]},
}
ALONE = {"experts": ["adapted"], "lora": TINY["lora"]}
DELAY = {"law": "geometric", "rounds": 3, "loss_probability": 0.1}
SIZE = 2
# Each exercises other parts: (changes of the config).
SETTINGS: dict[str, dict[str, Any]] = {
    "ridge": {"agent": TINY},
    "delay": {
        "agent": {**TINY, "optimizer": "lora-rite"},
        "env": {"num_arms": 3, "delay": DELAY},
        "parallel": {"sync_every": 3},
    },
    "sketch": {
        "agent": {
            **TINY,
            "covariance": {"name": "countsketch", "rank": 32},
            "head": "gradient",
            "policy": "thompson",
            "link": "bernoulli",
        },
    },
    "low-rank": {
        "agent": {**TINY, "covariance": {"name": "low-rank", "rank": 8}},
        "parallel": {"sync_every": 2},
    },
    "score": {
        "agent": {
            **ALONE,
            "readout": "head",
            "training": {"batch_size": 4, "rebuild": "doubling", "discount": 0.95},
        },
        "parallel": {"sync_every": 2},
    },
}


# Agents with experts; the network sleeps for 8 of all ranks' rewards.
OF_EXPERTS: dict[str, dict[str, Any]] = {
    "image arms": {"agent": {"experts": None}},
    "labels": {
        "agent": {**TINY, "experts": None},
        "env": {"id": "vitucb/ImageContext-v0"},
        "parallel": {"sync_every": 2},
    },
    "estimator": {
        "agent": {
            **TINY,
            "experts": ["linear", "adapted"],
            "optimizer": {
                "name": "bernoulli-lora",
                "options": {"estimator": "page", "full_limit": 16},
            },
        },
        "env": {"id": "vitucb/ImageContext-v0"},
    },
    "start from data": {
        "agent": {
            "experts": ["linear", "adapted"],
            "lora": {"rank": 2, "blocks": [-1], "init": "lora_ga", "init_samples": 8},
        },
        "env": {"id": "vitucb/ImageContext-v0"},
    },
    "late": {
        "agent": {"experts": None, "policy": "thompson", "training": {"discount": 0.95}},
        "env": {"delay": DELAY},
        "parallel": {"sync_every": 3},
    },
    "kernel-ucb": {"agent": {"name": "kernel-ucb", "experts": None}},
}
ALL_SETTINGS = SETTINGS | OF_EXPERTS


def config(folder: Path, **changes: Any) -> RunConfig:
    base = {"out": str(folder), "env": {"num_arms": 3}, "num_rounds": 19, "tensorboard": False}
    settings = override(RunConfig(), base | {"agent": TINY} | changes)
    return dataclasses.replace(settings, checkpoint_every=10)


# In the processes of the ranks
# ---------------------------------------------------------------------------------------------


def rank_main(body: Callable[[Path], None], folder: Path, rank: int, port: int) -> None:
    """A process as torchrun starts it; what `body` fails with is kept in a file."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        body(folder)
    except RankLostError as error:
        (folder / f"error{rank}").write_text(str(error))


def rank_of() -> int:
    return int(os.environ["RANK"])


def write_histories(folder: Path) -> None:
    """Play every setting; after each sync, the hash of all that must be equal."""
    from vitucb.agents.expert_agent import ExpertAgent
    from vitucb.agents.factory import make_agent
    from vitucb.experiment.distributed.loop_hook import of_all_ranks
    from vitucb.experiment.distributed.process_group import joined
    from vitucb.experiment.environments import make_env
    from vitucb.experiment.episode import Episode

    parallel = ParallelConfig(ranks=SIZE, rank=rank_of())
    with joined(parallel) as ranks:
        for name, changes in ALL_SETTINGS.items():
            settings = at_this_rank(config(folder, **changes))
            env = make_env(settings.env, settings.num_rounds)
            inner: Any = make_agent(settings.agent.name, env, config=settings.agent)
            if isinstance(inner, ExpertAgent):
                wake_soon(inner)
            agent = of_all_ranks(inner, ranks, settings)
            episode = Episode(env, agent, seed=rank_seed(0, settings.parallel))
            hashes, actions, losses = [], [], []
            while not episode.is_over:
                actions.append(episode.play_round().decision.action)
                is_last = episode.is_over
                metrics, *_ = agent.sync_when_due(
                    episode.index, Wishes(save=False, stop=False), is_last=is_last
                )
                losses.append(metrics.get("train/loss", metrics.get("adapted/loss", 0.0)))
                if is_last or episode.index % settings.parallel.sync_every == 0:
                    hashes.append(hash_of_shared(agent.state_dict()))
            content = {"hashes": hashes, "actions": actions, "losses": losses}
            content["count"] = inner.covariance.count if name in SETTINGS else inner.rounds
            (folder / f"{name}.{rank_of()}").write_text(json.dumps(content))
        write_covariance(folder, ranks)
        write_steps(folder, ranks)


def wake_soon(agent: Any) -> None:
    """Let the network train from the eighth reward on."""
    for expert in agent.experts.values():
        if hasattr(expert, "network"):
            schedule = dataclasses.replace(expert._settings.schedule, start=8)
            expert._settings = dataclasses.replace(expert._settings, schedule=schedule)
            agent.weights._wakes_in[agent.weights._is_asleep] = 8


def hash_of_shared(state: dict[str, Any]) -> str:
    """SHA-256 of an agent's state without the policy's generator and what a rank looked at."""
    state = {**state, "rng": None}
    if "history" in state:
        state["history"] = {**state["history"], "offered": None}
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if key in ("passes", "ways_back", "seen"):  # of images, some a rank's own
                    continue
                digest.update(str(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor | np.ndarray):
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def write_covariance(folder: Path, ranks: Any) -> None:
    """log det A after 19 discounted rounds without rebuilds, and the features of the choices."""
    from vitucb.agents.factory import make_agent
    from vitucb.experiment.distributed.data_parallel import DataParallelAgent
    from vitucb.experiment.environments import make_env
    from vitucb.experiment.episode import Episode

    agent = {**ALONE, "training": {"rebuild": "none", "discount": 0.9}}
    settings = at_this_rank(config(folder, agent=agent, parallel={"sync_every": 4}))
    env = make_env(settings.env, settings.num_rounds)
    inner: Any = make_agent("vit-ucb", env, config=settings.agent)
    together = DataParallelAgent(inner, ranks, settings)
    episode = Episode(env, together, seed=rank_seed(0, settings.parallel))
    phi = []
    while not episode.is_over:
        phi.append(episode.play_round().decision.phi)
        together.sync_when_due(episode.index, Wishes(False, False), is_last=episode.is_over)
    arrays = {"phi": torch.stack(phi).double().numpy(), "log_det": inner.covariance.log_det}
    np.savez(folder / f"covariance{rank_of()}.npz", **arrays)


def write_steps(folder: Path, ranks: Any) -> None:
    """How far training on a split batch ends from training on the whole one, over the way."""
    from vitucb.agents.factory import make_agent
    from vitucb.experiment.environments import make_env

    far = {}
    for head in ("ridge", "gradient"):
        settings = {**ALONE, "head": head, "optimizer": {"name": "sgd", "lr": 0.1}}
        ends = []
        for size in (3, 6):
            agent = {**settings, "training": {"batch_size": size}}
            made: Any = make_agent(
                "vit-ucb",
                make_env(config(folder).env, 9),
                config=config(folder, agent=agent).agent,
            )
            trainer, rng = made.trainer, np.random.default_rng(0)
            trainer.split = ranks if size == 3 else WholeBatch()
            for _ in range(9):
                trainer.remember(rng.integers(0, 255, (8, 8, 1), np.uint8), float(rng.normal()))
            trainer._new.clear()
            start = flat_parameters(trainer.model)
            for _ in range(2):
                trainer.train()
            ends.append(flat_parameters(trainer.model))
        far[head] = float((ends[0] - ends[1]).norm() / (ends[1] - start).norm())
    (folder / f"steps{rank_of()}").write_text(json.dumps(far))


def flat_parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def play_settings(folder: Path) -> None:
    from vitucb.experiment.playing import play

    play(load_config(folder / "settings.yaml"))


def play_until_rank_1_dies_in_round_19(folder: Path) -> None:
    """Rank 1 dies when rank 0 may write a checkpoint that rank 1 will never have."""
    from vitucb.experiment.playing import play
    from vitucb.types import Round

    def die(round: Round) -> None:
        if rank_of() == 1 and round.index == 19:
            os._exit(9)

    play(load_config(folder / "settings.yaml"), die)


def play_until_rank_1_dies_at_the_end(folder: Path) -> None:
    """Rank 1 dies when rank 0 has finished."""
    from vitucb.experiment.playing import play
    from vitucb.experiment.recorder import Recorder

    if rank_of() == 1:
        Recorder.finish = lambda *_: os._exit(9)  # type: ignore[method-assign]  # this process ends
    play(load_config(folder / "settings.yaml"))


# Here
# ---------------------------------------------------------------------------------------------


def start_ranks(body: Callable[[Path], None], folder: Path) -> list[int | None]:
    """Run `body` in two ranks; their exit codes."""
    # One server imports torch once; its children are forked from it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["vitucb.experiment.distributed.data_parallel", "vitucb.experiment.playing", "peft"]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=rank_main, args=(body, folder, rank, port)) for rank in range(SIZE)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two ranks wrote of every setting."""
    folder = tmp_path_factory.mktemp("histories")
    assert start_ranks(write_histories, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_ranks_agree_bit_for_bit_after_every_sync(name: str, histories: Path) -> None:
    first, second = (json.loads((histories / f"{name}.{rank}").read_text()) for rank in range(SIZE))
    assert first["hashes"] == second["hashes"]
    assert len(set(first["hashes"])) == len(first["hashes"]) >= 7
    assert first["actions"] != second["actions"]
    assert first["losses"] == second["losses"]
    assert any(first["losses"]) == (name not in ("image arms", "late", "kernel-ucb"))


def test_merged_covariance_is_that_of_all_choices(histories: Path) -> None:
    found = [np.load(histories / f"covariance{rank}.npz") for rank in range(SIZE)]
    phi = np.stack([f["phi"] for f in found], axis=1).reshape(SIZE * 19, -1)
    weights = 0.9 ** np.arange(SIZE * 19)[::-1]
    ridge = 2.0
    gram = phi @ phi.T * np.sqrt(weights * weights[:, None])
    expected = np.linalg.slogdet(np.eye(len(gram)) + gram / ridge)[1]
    assert found[0]["log_det"] == found[1]["log_det"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["low-rank", *OF_EXPERTS])
def test_no_choice_is_counted_twice(name: str, histories: Path) -> None:
    content = json.loads((histories / f"{name}.0").read_text())
    assert content["count"] == SIZE * 19


def test_step_on_a_split_batch_is_that_on_the_whole_batch(histories: Path) -> None:
    for head, far in json.loads((histories / "steps0").read_text()).items():
        assert far < 1e-4, head


@pytest.mark.slow
@pytest.mark.parametrize("agent", [TINY, {"experts": None}], ids=["adapted", "experts"])
def test_lost_rank_ends_the_run_which_goes_on_to_the_same_bytes(
    agent: dict[str, Any], tmp_path: Path
) -> None:
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    for folder in (whole, broken):
        folder.mkdir()
        settings = config(folder, num_rounds=24, agent=agent, parallel={"sync_every": 2})
        save_config(settings, folder / "settings.yaml")
    assert start_ranks(play_settings, whole) == [0, 0]
    assert start_ranks(play_until_rank_1_dies_in_round_19, broken) == [0, 9]
    message = (broken / "error0").read_text()
    assert message.startswith("rank 0: another of the 2 ranks has ended or was silent for 60 s")
    assert "the same command goes on" in message
    assert "\n" not in message
    assert start_ranks(play_until_rank_1_dies_at_the_end, broken) == [0, 9]
    ranks = [run_folder(run) for run in runs_of(broken)]
    assert [is_finished(folder) for folder in ranks] == [True, False]
    assert start_ranks(play_settings, broken) == [0, 0]
    for ours, theirs in zip(ranks, map(run_folder, runs_of(whole)), strict=True):
        assert contents(ours) == contents(theirs)


def runs_of(folder: Path) -> list[RunConfig]:
    environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": ""}
    return all_ranks(at_this_rank(load_config(folder / "settings.yaml"), environ))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME_BYTES}


def test_every_rank_has_a_folder_a_seed_and_a_gpu_of_its_own() -> None:
    environ = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    environ |= {"MASTER_ADDR": "host", "MASTER_PORT": "1"}
    ours = at_this_rank(RunConfig(device="cuda"), environ)
    assert (ours.parallel.rank, ours.parallel.ranks, ours.device) == (1, 2, "cuda:0")
    assert run_folder(ours).name == "vit-ucb-rank1of2__vitucb-ImageArms-v0__s0"
    assert at_this_rank(ours, environ) is ours
    assert all_ranks(ours)[1] == ours
    seeds = [rank_seed(5, run.parallel) for run in all_ranks(ours)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 2


def test_without_torchrun_nothing_changes() -> None:
    settings = RunConfig()
    assert at_this_rank(settings, {"RANK": "3", "WORLD_SIZE": "8"}) is settings
    assert all_ranks(settings) == [settings]
    with pytest.raises(ValueError, match="leave both out, torchrun"):
        at_this_rank(RunConfig(parallel=ParallelConfig(ranks=2)), {})


@pytest.mark.parametrize(
    "changes", [{"sync_every": 0}, {"ranks": 0}, {"rank": -1}, {"timeout_s": 0.0}]
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"parallel\.{next(iter(changes))} "):
        ParallelConfig(**changes)


def test_agents_and_schedules_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    from vitucb.agents.factory import make_agent
    from vitucb.experiment.distributed.data_parallel import DataParallelAgent
    from vitucb.experiment.distributed.process_group import Ranks
    from vitucb.experiment.environments import make_env

    env, ranks = make_env(config(tmp_path).env, 5), Ranks(ParallelConfig(ranks=2))
    settings = config(tmp_path, agent={"name": "random"})
    with pytest.raises(ValueError, match="agent random cannot train on several ranks"):
        DataParallelAgent(make_agent("random", env), ranks, settings)
    settings = config(tmp_path, agent={**TINY, "training": {"update_every": 5}})
    with pytest.raises(ValueError, match=r"agent\.training\.update_every 5 has no use"):
        DataParallelAgent(make_agent("vit-ucb", env, config=settings.agent), ranks, settings)


def test_ranks_that_have_parted_are_told() -> None:
    from vitucb.experiment.distributed.synced_agent import check_equal

    package = {"outputs": torch.zeros(2, 3), "digest": torch.zeros(32, dtype=torch.uint8)}
    check_equal([package, package])
    with pytest.raises(ValueError, match=r"played \[2, 1\] rounds since the last sync"):
        check_equal([package, {**package, "outputs": torch.zeros(1, 3)}])
    with pytest.raises(RuntimeError, match="the ranks no longer agree"):
        check_equal([package, {**package, "digest": torch.ones(32, dtype=torch.uint8)}])
