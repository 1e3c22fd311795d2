"""Everything there is to know of a new accelerator, in one command of at most eight minutes.

    python scripts/benchmarks/on_a_gpu.py [--device cuda] [--seconds 480] [--out FILE.json]

Plays agents on the processor and on the device with one seed and compares what they choose; times a
round by backbone and number of arms, and 10,000 rounds of ViT-Tiny at 224 px by the first 300;
plays with 1 to 8 processes on the one device; and tries CUDA graphs and `torch.compile`, which no
agent uses. Every part has its share of the seconds, plays as many rounds as fit, and leaves out
what does not, with the reason. Writes FILE.json and, as Markdown tables, FILE.md, after each part.
`--device cpu` gives the same figures of the processor, to compare with; `--quick` is for tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from time_budget import Budget, Outcome, Row, Section, play_sections

from vitucb.cli.output import fail, table
from vitucb.devices import check_device, open_device
from vitucb.experiment.preflight import check_writable
from vitucb.experiment.provenance import describe_environment
from vitucb.models.threads import use_threads

if TYPE_CHECKING:
    from gpu_players import Device

SECTIONS = {"choices": 2.0, "rounds": 4.0, "10,000 rounds": 2.0, "processes": 2.0, "passes": 1.0}
"""Part -> its share of the seconds."""
NANO, TINY = "vitucb-nano (32 px)", "ViT-Tiny/16 (224 px)"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        models: Backbones whose rounds are timed.
        arms: K, of each.
        choices: Rounds that are compared with the processor's.
        rounds: Rounds that are timed after warming up.
        warm_up: Rounds before those, at most.
        longest: Backbone of the 10,000 rounds.
        horizon: Rounds played of those.
        processes: On the device at a time.
        together_s: Seconds that those play.
    """

    models: tuple[str, ...] = (NANO, TINY, "ViT-S/14 (98 px)")
    arms: tuple[int, ...] = (10, 100)
    choices: int = 40
    rounds: int = 30
    warm_up: int = 100
    longest: str = TINY
    horizon: int = 300
    processes: tuple[int, ...] = (1, 2, 4, 8)
    together_s: float = 10.0


QUICK = Sizes((NANO,), (3,), 3, 2, 1, NANO, 3, (1,), 0.5)


def main(
    words: Sequence[str],
    prepare: Callable[[], None] | None = None,
    take_waits: Callable[[], int] | None = None,
) -> int:
    """Measure, and write the tables.

    Args:
        words: Of the command line.
        prepare: See `gpu_players.Device`.
        take_waits: See there.

    Returns:
        1 if a part failed, else 0.
    """
    args = _parse(words)
    budget = Budget(args.seconds)
    try:
        if prepare is None:
            check_device(args.device)  # before torch, which takes seconds to load
        _check(args)
        open_device(args.device)
    except ValueError as error:
        fail(f"on_a_gpu: {error}")
    from gpu_players import Device

    use_threads(1)  # processes share the cores, and small products gain nothing from several
    device = Device(args.device, prepare, take_waits)
    sizes = QUICK if args.quick else Sizes()
    print(f"{args.seconds:.0f} s for {', '.join(args.only)} on {args.device}", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        facts = _facts(device, args.seconds)
        for outcome in play_sections(_plan(device, sizes, args.only, Path(folder)), budget):
            outcomes.append(outcome)
            print(_markdown_of(outcome), flush=True)
            _write(args.out, facts, outcomes)
    print(args.out, args.out.with_suffix(".md"), sep="\n")
    return int(any(outcome.error for outcome in outcomes))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda", help="torch device, cuda if not given")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("on_a_gpu.json"), help="a .json file")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a few rounds of the smallest")
    return parser.parse_args(words)


def _check(args: argparse.Namespace) -> None:
    if args.out.suffix != ".json":
        raise ValueError(f"--out {str(args.out)!r} must be a .json file")
    if not 1 <= args.seconds <= 86_400:
        raise ValueError(f"--seconds {args.seconds:g} is no time; give 1 to 86400, usually 480")
    check_writable(args.out.parent, "--out")


def _plan(device: Device, sizes: Sizes, only: Sequence[str], folder: Path) -> list[Section]:
    """What is measured, in this order."""
    from gpu_choices import choice_rows
    from gpu_passes import pass_rows
    from gpu_processes import process_rows
    from gpu_rounds import Backbones, horizon_rows, round_rows

    arms, backbones = sizes.arms[0], Backbones(folder)

    def whole_game(budget: Budget) -> Iterator[Row]:
        return horizon_rows(device, backbones(sizes.longest), arms, sizes.horizon, budget)

    measured: dict[str, Callable[[Budget], Iterator[Row]]] = {
        "choices": partial(choice_rows, device.name, arms, sizes.choices),
        "rounds": partial(
            round_rows,
            device,
            backbones,
            sizes.models,
            sizes.arms,
            sizes.rounds,
            sizes.warm_up,
        ),
        "10,000 rounds": whole_game,
        "processes": partial(process_rows, device, sizes.processes, arms, sizes.together_s),
        "passes": partial(pass_rows, device, list(dict.fromkeys((NANO, sizes.longest)))),
    }
    return [Section(name, SECTIONS[name], measured[name]) for name in SECTIONS if name in only]


def _facts(device: Device, seconds: float) -> dict[str, object]:
    """Machine, versions, and what decides the last digits of a product."""
    import torch

    name = torch.cuda.get_device_name(device.name) if device.is_cuda else device.name
    return {
        **describe_environment(),
        "device": name,
        "seconds": seconds,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "float32 products": torch.get_float32_matmul_precision(),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
    }


def _write(out: Path, facts: dict[str, object], outcomes: Sequence[Outcome]) -> None:
    content = {"environment": facts, "sections": [asdict(outcome) for outcome in outcomes]}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    told = [f"{name}: {facts[name]}" for name in ("device", "processor", "date", "seconds")]
    parts = ["# On " + str(facts["device"]), "; ".join(told), *map(_markdown_of, outcomes)]
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _markdown_of(outcome: Outcome) -> str:
    head = f"## {outcome.name}: {outcome.spent_s:.0f} of {outcome.planned_s:.0f} s"
    parts = [head, *([table(outcome.rows)] if outcome.rows else [])]
    return "\n\n".join([*parts, *([f"Failed: {outcome.error}"] if outcome.error else [])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
