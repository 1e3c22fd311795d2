"""`vitucb run`: play one agent in one environment and record it."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from vitucb.cli.arguments import asks_help, parse_run, warn_of_ignored
from vitucb.cli.outcome import print_outcome, report_command
from vitucb.cli.output import fail
from vitucb.cli.run_help import short_help
from vitucb.config import RunConfig

if TYPE_CHECKING:
    from vitucb.types import Round


def run(words: list[str]) -> None:
    """Play one agent in one environment and record it."""
    explains = "--resume" in words
    words = [word for word in words if word != "--resume"]
    if asks_help(words):
        print(short_help())
        return
    if "--help-all" in words:
        print("--config FILE.yaml  settings to start from; options override them")
        print("--resume            say what the run folder holds before going on with it\n")
        words = ["--help"]
    config = parse_run(words, "run")
    from vitucb.cli.catalog import check_names
    from vitucb.experiment.distributed.ranks import all_ranks, at_this_rank
    from vitucb.experiment.preflight import check_places
    from vitucb.experiment.resume import explain
    from vitucb.experiment.run_folder import RunFolder

    check_names(config)
    config = at_this_rank(config)
    folder = RunFolder.of(config)
    check_places([config])
    if explains:
        print(explain(folder), file=sys.stderr)
    if not any(RunFolder.of(rank).needs_playing for rank in all_ranks(config)):
        print(f"{folder.path} is finished; --overwrite plays it again", file=sys.stderr)
    else:
        if not config.parallel.rank:
            warn_of_ignored([config], "run")
        _play_with_progress(config)
    if not config.parallel.rank:
        print_outcome([config], report_command(config))
    print(folder.path)


def _play_with_progress(config: RunConfig) -> None:
    from tqdm import tqdm

    from vitucb.experiment.distributed.ranks import RankLostError
    from vitucb.experiment.playing import play
    from vitucb.experiment.resume import StoppedError

    is_hidden = True if config.parallel.rank else None  # None: where stderr is no terminal
    with tqdm(total=config.num_rounds, unit="round", disable=is_hidden) as bar:

        def show(round: Round) -> None:
            if not bar.n:  # the clock starts with the first round, not while torch is loaded
                bar.reset()
                bar.initial = bar.n = round.index
            bar.set_postfix_str(_standing(round), refresh=False)
            bar.update(round.index + 1 - bar.n)

        try:
            recorder = play(config, show)
        except StoppedError as stopped:
            print(f"vitucb run: {stopped}", file=sys.stderr)
            raise SystemExit(0) from None
        except RankLostError as lost:
            fail(f"vitucb run: {lost}", 1)
    print(_counts(recorder.parameters), file=sys.stderr)


def _standing(round: Round) -> str:
    """Regret so far; where nobody knows it, the latest reward."""
    if math.isnan(round.cumulative_regret):
        return f"reward {round.reward:.3g}"
    return f"regret {round.cumulative_regret:.1f}"


def _counts(parameters: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in parameters.items())
