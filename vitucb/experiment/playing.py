"""The composition root: builds environment and agent from a config and plays one run."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium as gym

from vitucb.agents.factory import make_agent
from vitucb.agents.saving import Blueprint
from vitucb.config import ParallelConfig, RunConfig
from vitucb.devices import open_device
from vitucb.experiment.distributed.ranks import at_this_rank, rank_seed
from vitucb.experiment.environments import describe_task, make_env
from vitucb.experiment.episode import Episode
from vitucb.experiment.lock import locked
from vitucb.experiment.loop_hook import LoopHook, Wishes
from vitucb.experiment.recorder import Recorder
from vitucb.experiment.resume import (
    StoppedError,
    Timetable,
    earlier_state,
    stop_flag,
)
from vitucb.experiment.run_folder import RunFolder
from vitucb.models.threads import use_threads
from vitucb.types import Agent, Round

_logger = logging.getLogger(__name__)
_ACCEPTED = ("acceptance_rate", "accepted_mean_reward")


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
    folder = RunFolder.of(config)
    with contextlib.ExitStack() as stack:
        # From the start: while the model is built, too, SIGTERM means leave in good order.
        stop = stack.enter_context(stop_flag())
        # Before torch is loaded, which takes longer: what is wrong here is said at once.
        env = make_env(config.env, config.num_rounds)
        _set_torch(config)
        hook = stack.enter_context(_loop_hook(config.parallel))
        agent = make_agent(
            config.agent.name, env, seed=config.seed, device=config.device, config=config.agent
        )
        stack.enter_context(locked(folder.path))
        folder.check_same_config()
        agent = hook.begin_run(agent, folder)
        episode, recorder = _begin(folder, env, agent, started)
        with recorder:
            _play_on(episode, recorder, hook, stop, on_round)
            if episode.index < config.num_rounds:
                _logger.warning(
                    "%s: the environment ended after %s of %s rounds; an episode is a whole run",
                    folder.path,
                    f"{episode.index:,}",
                    f"{config.num_rounds:,}",
                )
            _save_checkpoint(agent, folder.path / "checkpoint")
            recorder.finish(getattr(agent, "image_passes", None), _of_accepted_rounds(env))
        hook.end_run()
        folder.checkpoints.clear()
    return recorder


# What a state of the wrong kind makes agents and recorders raise.
_MISFITS = (LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError, AssertionError)


def _loop_hook(config: ParallelConfig) -> AbstractContextManager[LoopHook]:
    if config.ranks == 1:
        return contextlib.nullcontext(LoopHook())
    from vitucb.experiment.distributed.loop_hook import joined_hook

    return joined_hook(config)


def _begin(
    folder: RunFolder, env: gym.Env[Any, Any], agent: Agent, started: float
) -> tuple[Episode, Recorder]:
    """A new episode, or the one that was left, and the recorder of its rounds."""
    config, state = folder.config, earlier_state(folder)
    episode = Episode(env, agent, seed=rank_seed(config.seed, config.parallel))
    names = Blueprint.of(config.agent, env, config.seed).action_names
    parameters = getattr(agent, "parameters", {})
    told: dict[str, Any] = {"action_names": names, "task": describe_task(env), "started": started}
    if state is None:
        return episode, Recorder(folder, parameters, **told)
    try:
        agent.load_state_dict(state["agent"])
        episode.resume(state["episode"], folder.recorded_rounds(state["rounds"]))
        recorder = Recorder(folder, parameters, state["recorder"], **told)
    except _MISFITS as error:
        why = " ".join(repr(error).split())[:300]
        raise ValueError(
            f"the checkpoint of {folder.path} does not fit its settings: {why}; start the run "
            "anew with --overwrite"
        ) from error
    return episode, recorder


def _play_on(
    episode: Episode,
    recorder: Recorder,
    hook: LoopHook,
    stop: threading.Event,
    on_round: Callable[[Round], None] | None,
) -> None:
    """Play to the end of the episode, with checkpoints on the way."""
    config, checkpoints = recorder.run.config, recorder.run.checkpoints
    timetable = Timetable(config.checkpoint_every)

    def save() -> None:
        state = {
            "agent": episode.agent.state_dict(),
            "episode": episode.state_dict(),
            "recorder": recorder.state_dict(),
        }
        checkpoints.save(episode.index, state)

    def wishes() -> Wishes:
        return Wishes(timetable.is_due(episode.index), stop.is_set())

    while not episode.is_over:
        round = episode.play_round()
        round = hook.end_round(round, wishes, is_last=episode.is_over)
        recorder.write(round)
        if on_round is not None:
            on_round(round)
        saves, stops = hook.agreed(wishes)
        if saves or stops:
            timetable.run(save)
        if stops:
            command = "the same command" + ", without --overwrite," * config.overwrite
            raise StoppedError(
                f"stopped after {episode.index:,} of {config.num_rounds:,} rounds, which are kept; "
                f"{command} goes on from here"
            )


def _of_accepted_rounds(env: gym.Env[Any, Any]) -> dict[str, float]:
    """What a replayed log says of the agent: rejected rounds pay nothing, and are none."""
    replay = env.unwrapped
    rates = {name: getattr(replay, name, math.nan) for name in _ACCEPTED}
    return {name: float(rate) for name, rate in rates.items() if math.isfinite(rate)}


def _save_checkpoint(agent: Agent, folder: Path) -> None:
    """The agent's final state, and its adapters in PEFT's own format."""
    from vitucb.storage.state_files import save_state

    save_state(agent.state_dict(), folder)
    save_adapter = getattr(agent, "save_adapter", None)
    if save_adapter is not None:
        save_adapter(folder / "adapter")


def _set_torch(config: RunConfig) -> None:
    import torch

    use_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    open_device(config.device)
