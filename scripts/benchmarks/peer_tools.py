"""What comparisons with published libraries share: peers that may be missing, times, memory.

Peers are installed beside, where they replace nothing, and only their own rows import them:

    pip install --target PEERS --no-deps NAMES
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_gradients.py
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from vitucb.experiment.provenance import processor

# A script finds modules of its own folder alone.
sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))
from study_tools import add_out  # found by the line above

Call: TypeAlias = Callable[[], object]
Seconds: TypeAlias = NDArray[np.float64]

DISTRIBUTIONS: Final = {
    "agilerl": "agilerl agilerl-arena dill fastrand lazy-loader opt-einsum pettingzoo pyvers "
    "sniffio tensordict wandb xxhash",
    "backpack": "backpack-for-pytorch einops unfoldNd",
    "bayesianbandits": "bayesianbandits",
    "calvera": "calvera lightning lightning-utilities torchmetrics",
    "laplace": "laplace-torch curvlinops-for-pytorch asdfghjkl backpack-for-pytorch einconv "
    "einops lightning-utilities opt-einsum torchmetrics unfoldNd",
    "linear_operator": "linear-operator jaxtyping wadler-lindig",
    "mabwiser": "mabwiser pandas python-dateutil seaborn",
    "onnxruntime": "onnxruntime flatbuffers ml-dtypes onnx onnx-ir onnxscript protobuf",
    "opacus": "opacus opt-einsum",
    "openvino": "openvino openvino-telemetry ml-dtypes onnx onnx-ir onnxscript protobuf",
    "pytorch_optimizer": "pytorch-optimizer",
    "vowpalwabbit": "vowpalwabbit",
}
"""Module of a peer -> what to install for it beside the project's own environment."""


def peer_parser(
    doc: str | None, labels: Iterable[str], *, repeats: int | None = None
) -> argparse.ArgumentParser:
    """The options of a comparison.

    Args:
        doc: Of the script.
        labels: Its rows, ours and the peers'.
        repeats: Repetitions of every timed call if not given; None where a stream is played.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(labels), help="all if not given")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    add_out(parser, "the smallest case, in short")
    return parser


def chosen_rows(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    modules: Mapping[str, str | None],
    option: str = "--rows",
) -> list[str]:
    """The rows asked for, if all their peers are installed; else one line and exit code 2.

    Args:
        parser: Says what is missing.
        options: What it parsed, with `rows`.
        modules: Row -> the peer's module, or None where it is ours.
        option: What rows are called on the command line.
    """
    rows = options.rows or list(modules)
    missing = sorted({m for row in rows if (m := modules[row]) and not is_installed(m)})
    if missing:
        names = " ".join(DISTRIBUTIONS[module] for module in missing)
        ours = ", ".join(f"'{row}'" for row, module in modules.items() if module not in missing)
        parser.error(
            f"not installed: {', '.join(missing)}; pip install --target PEERS --no-deps {names}, "
            f"and set PYTHONPATH=PEERS; or give {option} of {ours}"
        )
    return list(rows)


def is_installed(module: str) -> bool:
    """Whether a peer can be found."""
    return importlib.util.find_spec(module) is not None


def cpu_times(calls: Mapping[str, Call], repeats: int) -> dict[str, Seconds]:
    """CPU seconds of every call, (repeats,), all in turn, after one call each to warm up."""
    for call in calls.values():
        call()
    times = {name: np.empty(repeats) for name in calls}
    gc.collect()
    gc.freeze()  # else every collection below walks through all that was imported
    for repeat in range(repeats):
        for name, call in calls.items():
            gc.collect()  # what one of them left behind is not the next one's
            start = time.process_time()
            call()
            times[name][repeat] = time.process_time() - start
    gc.unfreeze()
    return times


def time_cells(times: Mapping[str, Seconds], name: str, reference: str) -> list[str]:
    """Median milliseconds of a call, and the median ratio to another one of the same turn."""
    ratio = float(np.median(times[name] / times[reference]))
    return [f"{1e3 * np.median(times[name]):.4g}", f"{ratio:.2f}"]


def peak_mib(call: Call) -> float:
    """Most memory of tensors that a call held at one time, beyond what was there before, MiB."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = call()
    gains = [
        event.nbytes()
        for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns())
        if event.name() == "[memory]"
    ]
    del kept
    return float(np.cumsum([0, *gains]).max()) / 2**20


def machine() -> str:
    """Processor and versions, for the text beside a table."""
    return f"{processor()}; Python {sys.version.split()[0]}, torch {torch.__version__}; one thread"
