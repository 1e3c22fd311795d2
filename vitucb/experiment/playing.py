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

from vitucb.agents.factory import make_agent
from vitucb.agents.saving import Blueprint
from vitucb.config import RunConfig
from vitucb.experiment.distributed.ranks import at_this_rank, rank_seed
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import Episode
from vitucb.experiment.lock import locked
from vitucb.experiment.recorder import Recorder
from vitucb.experiment.resume import (
    StoppedError,
    Timetable,
    earlier_state,
    open_snapshots,
    recorded_rounds,
    stop_flag,
)
from vitucb.experiment.run_folder import run_folder
from vitucb.types import Agent, Round

if TYPE_CHECKING:
    from vitucb.experiment.distributed.process_group import Ranks


def play(config: RunConfig, on_round: Callable[[Round], None] | None = None) -> Recorder:
    """Play one run and write its folder; go on where an unfinished run there was left.

    A process that torchrun started plays its rank's part; see
    `vitucb.experiment.distributed.data_parallel`.

    Args:
        config: The run.
        on_round: Called after every recorded round, e.g. by a progress bar.

    Raises:
        ValueError: If the config cannot be run, another process plays this run, the folder holds
            a run with other settings, or a reward is not finite; what was recorded stays.
        OSError: If the folder cannot be written, because the disk is full, say; what was recorded
            stays, and playing again goes on from the last checkpoint.
        StoppedError: If SIGTERM arrived: a checkpoint was written.
        RankLostError: If another rank has ended or does not answer.
    """
    started = time.perf_counter()
    config = at_this_rank(config)
    with contextlib.ExitStack() as stack:
        # From the start: while the model is built, too, SIGTERM means leave in good order.
        stop = stack.enter_context(stop_flag())
        _set_torch(config)
        ranks = None
        if config.parallel.ranks > 1:
            from vitucb.experiment.distributed.process_group import joined

            ranks = stack.enter_context(joined(config.parallel))
        return _play(config, on_round, stop, started, ranks)


def _play(
    config: RunConfig,
    on_round: Callable[[Round], None] | None,
    stop: threading.Event,
    started: float,
    ranks: Ranks | None,
) -> Recorder:
    env = make_env(config.env, config.num_rounds)
    agent = make_agent(
        config.agent.name, env, seed=config.seed, device=config.device, config=config.agent
    )
    with locked(run_folder(config)):
        if ranks is not None:
            from vitucb.experiment.distributed.data_parallel import (
                DataParallelAgent,
                keep_common_checkpoints,
            )

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
    from vitucb.storage.state_files import save_state

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
