"""The composition root: builds environment and agent from a config and plays one run."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from vitucb.agents import AGENTS
from vitucb.agents.settings import warn_of_ignored
from vitucb.config import AgentConfig, DataConfig, DriftConfig, EnvConfig, RunConfig, override
from vitucb.envs import (
    DelayedReward,
    DriftingRewards,
    ImageDataset,
    RandomArmSubset,
    load_dataset,
)
from vitucb.parallel_seeds import Seat, Table
from vitucb.ranks import at_this_rank, rank_seed
from vitucb.recorder import Recorder, run_folder
from vitucb.registry import lookup, unknown_name
from vitucb.resume import (
    StoppedError,
    Timetable,
    earlier_state,
    open_snapshots,
    recorded_rounds,
    stop_flag,
)
from vitucb.run_lock import locked
from vitucb.runner import Episode
from vitucb.saved_agent import Blueprint, Savable
from vitucb.types import Agent, Round

if TYPE_CHECKING:
    from vitucb.process_group import Ranks

# Modules draw their first weights from torch's one global generator, which threads share.
_BUILDING = threading.RLock()
_METHODS = ("select_action", "update", "state_dict", "load_state_dict")


def make_env(config: EnvConfig, num_rounds: int | None = None) -> gym.Env[Any, Any]:
    """Build the environment of `config` with its wrappers, one episode of `num_rounds` rounds.

    Raises:
        ValueError: If the id is unknown or an argument is not usable.
    """
    named = {
        "dataset": _dataset(config),
        "num_arms": config.num_arms,
        "reward": config.reward,
        "noise_std": config.noise_std,
    }
    arguments: dict[str, Any] = {k: v for k, v in named.items() if v is not None} | config.options
    if num_rounds is not None:
        if num_rounds < 1:
            raise ValueError(f"num_rounds {num_rounds} must be at least 1")
        arguments["max_episode_steps"] = num_rounds
    try:
        env = gym.make(config.id, disable_env_checker=True, **arguments)
    except gym.error.Error as error:
        known = [name for name in gym.registry if name.startswith("vitucb/")]
        raise unknown_name("env.id", config.id, known, or_path=True) from error
    except ImportError as error:
        raise ValueError(
            f"env.id {config.id!r} cannot be imported: {error}; install its module, or name it as "
            "module:id"
        ) from error
    except TypeError as error:
        raise ValueError(f"env: {config.id} does not take these settings: {error}") from error
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict) or not {"images", "action_mask"} <= set(space):
        raise ValueError(
            f"env.id {config.id!r}: observations must be a Dict space with images and action_mask, "
            f"not {space}; choose another environment"
        )
    return _wrapped(env, config)


def _dataset(config: EnvConfig) -> str | ImageDataset | None:
    """The dataset's name, or the set itself where more than its name is configured."""
    data = config.data
    if data == DataConfig():
        return config.dataset
    if config.dataset is None:
        raise ValueError(f"env.data {data} needs env.dataset; name the dataset too")
    return load_dataset(
        config.dataset,
        image_size=data.image_size,
        split=None if data.split == "all" else data.split,
        classes=data.classes or None,
        skip_bad=data.skip_bad,
        disk_cache=data.disk_cache,
        cache_folder=data.cache_folder,
    )


def _wrapped(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """`env` with the masks, the drift and the delay of `config`."""
    drift, delay, subset = config.drift, config.delay, config.arm_subset
    for name, section, is_off in (
        ("drift.kind", drift, drift.kind == "none"),
        ("delay.law", delay, delay.law == "none"),
        ("arm_subset.min_arms", subset, subset.min_arms is None),
    ):
        if is_off and section != type(section)():
            raise ValueError(f"env.{name} is not set, and {section} has no use without it; set it")
    if subset.min_arms is not None:
        env = RandomArmSubset(env, subset.min_arms, subset.max_arms)
    if drift.kind != "none":
        env = DriftingRewards(env, drift.kind, *_drift_rounds(drift, env))
    if delay.law != "none":
        env = DelayedReward(env, delay.law, delay.rounds, delay.loss_probability, delay.tail)
    return env


def _drift_rounds(drift: DriftConfig, env: gym.Env[Any, Any]) -> tuple[int, int | None]:
    """First round and period of the drift, in proportion to the horizon where not given."""
    horizon = env.spec.max_episode_steps if env.spec else None
    if horizon is None and (drift.at is None or drift.period is None):
        raise ValueError("env.drift: the environment has no horizon; give at and period")
    at = (horizon or 0) // 2 if drift.at is None else drift.at
    if horizon is not None and at >= horizon:
        raise ValueError(f"env.drift.at {at} is past the last round {horizon - 1}; give an earlier")
    if drift.period is None and drift.kind != "abrupt":
        return at, max(1, (horizon or 0) // 10)
    return at, drift.period


def make_agent(
    name: str,
    env: gym.Env[Any, Any],
    *,
    seed: int = 0,
    device: str = "cpu",
    config: AgentConfig | None = None,
    **overrides: Any,
) -> Agent:
    """Build an agent for `env`; a warning names the settings that it ignores.

    Args:
        name: A name of `vitucb list agents`, or an import path `module:factory`.
        env: The environment it will play, or one like it.
        seed: Seed of the adapters, the replay, the policy and so on.
        device: Torch device.
        config: Settings to start from; the defaults if None.
        **overrides: Fields of `AgentConfig`, e.g. `backbone="vitucb-nano"`; a section takes a
            mapping, a section instance, or its name alone, e.g. `optimizer="lora-rite"`.

    Raises:
        ValueError: If a name or a setting is not usable.
    """
    config = override(config or AgentConfig(), {"name": name, **overrides}, "agent.")
    if overrides:
        warn_of_ignored(config)
    factories = {key: path for key, (path, _) in AGENTS.items()}
    factory: Callable[[AgentConfig, gym.Env[Any, Any], int, str], Agent]
    factory = lookup("agent", config.name, factories)
    with _BUILDING:
        agent = factory(config, env, seed, device)
    if missing := [name for name in _METHODS if not callable(getattr(agent, name, None))]:
        raise ValueError(
            f"agent.name {config.name!r} made a {type(agent).__name__} without "
            f"{', '.join(missing)}; name a factory of agents"
        )
    if isinstance(agent, Savable):
        agent.blueprint = Blueprint.of(config, env, seed)
    return agent


def play(
    config: RunConfig,
    on_round: Callable[[Round], None] | None = None,
    seat: Seat | None = None,
) -> Recorder:
    """Play one run and write its folder; go on where an unfinished run there was left.

    A process that torchrun started plays its rank's part; see `vitucb.distributed`.

    Args:
        config: The run.
        on_round: Called after every recorded round, e.g. by a progress bar.
        seat: Where the run shares passes of the model with other seeds that play now; with
            `parallel.seeds` above 1 and no seat it plays alone, at its own place all the same.

    Raises:
        ValueError: If the config cannot be run, another process plays this run, the folder holds
            a run with other settings, or a reward is not finite; what was recorded stays.
        OSError: If the folder cannot be written, because the disk is full, say; what was recorded
            stays, and playing again goes on from the last checkpoint.
        StoppedError: If SIGTERM arrived: a checkpoint was written.
        vitucb.ranks.RankLostError: If another rank has ended or does not answer.
    """
    started = time.perf_counter()
    config = at_this_rank(config)
    with contextlib.ExitStack() as stack:
        # From the start: while the model is built, too, SIGTERM means leave in good order.
        stop = stack.enter_context(stop_flag())
        if seat is None and config.parallel.seeds > 1:
            seat = Table([config]).seats(stop)[0]
        _set_torch(config)
        ranks = None
        if config.parallel.ranks > 1:
            from vitucb.process_group import joined

            ranks = stack.enter_context(joined(config.parallel))
        return _play(config, on_round, seat.stop if seat else stop, started, ranks, seat)


def _play(
    config: RunConfig,
    on_round: Callable[[Round], None] | None,
    stop: threading.Event,
    started: float,
    ranks: Ranks | None,
    seat: Seat | None,
) -> Recorder:
    env = make_env(config.env, config.num_rounds)
    agent = make_agent(
        config.agent.name, env, seed=config.seed, device=config.device, config=config.agent
    )
    if seat is not None:
        seat.take(agent, config)
    with locked(run_folder(config)):
        if ranks is not None:
            from vitucb.distributed import DataParallelAgent, keep_common_checkpoints

            agent = DataParallelAgent(agent, ranks, config)
            keep_common_checkpoints(config, ranks)
        episode, recorder = _begin(config, env, agent)
        with recorder:
            _play_on(config, episode, recorder, agent, on_round, stop, started)
            _save_checkpoint(agent, recorder.folder / "checkpoint")
            recorder.finish(time.perf_counter() - started)
        if ranks is not None:
            ranks.wait()  # As long as one rank has not finished, all can go on from checkpoints.
        open_snapshots(recorder.folder).clear()
    return recorder


def _begin(config: RunConfig, env: gym.Env[Any, Any], agent: Agent) -> tuple[Episode, Recorder]:
    """A new episode, or the one that was left, and the recorder of its rounds."""
    state = earlier_state(config)
    episode = Episode(env, agent, seed=rank_seed(config.seed, config.parallel))
    parameters = getattr(agent, "parameters", {})
    names = Blueprint.of(config.agent, env, config.seed).action_names
    if state is None:
        return episode, Recorder(config, parameters, action_names=names)
    agent.load_state_dict(state["agent"])
    episode.resume(state["episode"], recorded_rounds(run_folder(config), state["rounds"]))
    return episode, Recorder(config, parameters, state["recorder"], action_names=names)


def _play_on(
    config: RunConfig,
    episode: Episode,
    recorder: Recorder,
    agent: Agent,
    on_round: Callable[[Round], None] | None,
    stop: threading.Event,
    started: float,
) -> None:
    """Play to the end of the episode, with checkpoints on the way."""
    snapshots, timetable = open_snapshots(recorder.folder), Timetable(config.checkpoint_every)

    def save() -> None:
        state = {
            "agent": agent.state_dict(),
            "episode": episode.state_dict(),
            "recorder": recorder.state_dict(time.perf_counter() - started),
        }
        snapshots.save(episode.index, state)

    end_round = getattr(agent, "end_round_together", None)
    while not episode.is_over:
        round = episode.play_round()
        agreed = None
        if end_round is not None:
            is_due, begun = timetable.is_due(episode.index), time.perf_counter()
            metrics, *agreed = end_round(
                episode.index, is_last=episode.is_over, save=is_due, stop=stop.is_set()
            )
            round = dataclasses.replace(
                round,
                metrics={**round.metrics, **metrics},
                seconds=round.seconds + time.perf_counter() - begun,
            )
        recorder.write(round)
        if on_round is not None:
            on_round(round)
        saves, stops = agreed or (timetable.is_due(episode.index), stop.is_set())
        if saves or stops:
            timetable.run(save)
        if stops:
            raise StoppedError(
                f"stopped after {episode.index:,} of {config.num_rounds:,} rounds, which are kept; "
                "the same command goes on from here"
            )


def _save_checkpoint(agent: Agent, folder: Path) -> None:
    """The agent's final state, and its adapters in PEFT's own format."""
    from vitucb.checkpoint import save_state

    save_state(agent.state_dict(), folder)
    save_adapter = getattr(agent, "save_adapter", None)
    if save_adapter is not None:
        save_adapter(folder / "adapter")


def _set_torch(config: RunConfig) -> None:
    import torch

    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {config.device!r} cannot be used: {reason}; try cpu or cuda"
        ) from error
