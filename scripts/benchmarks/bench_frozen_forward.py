"""The frozen backbone: how we run it beside timm's own, torch.compile, ONNX Runtime and OpenVINO.

CPU time of one thread, in turn, for one image and for ten; and the largest difference of the
features from those in float64, over their size. Experts that sleep, and all agents without an
adapted network, do nothing else with an image that is new. Writes `frozen-forward.csv`.

    pip install --target PEERS --no-deps onnxruntime openvino onnx onnxscript onnx-ir ml-dtypes \
        flatbuffers protobuf openvino-telemetry
    PYTHONPATH=PEERS python scripts/benchmarks/bench_frozen_forward.py
    python scripts/benchmarks/bench_frozen_forward.py --rows vitucb timm
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from peer_tools import chosen_rows, cpu_times, machine, peer_parser, time_cells
from study_tools import out_folder, write_table
from torch import Tensor, nn

from vitucb.cli.bench.scoring import make_bare, make_frozen, one_thread

Forward: TypeAlias = Callable[[Tensor], Tensor]

REFERENCE: Final = "vitucb"
MODELS: Final = {
    "embedded ViT, 32 px": ("vitucb-nano", None),
    "ViT-Tiny/16, 224 px": ("vit_tiny_patch16_224", 224),
    "ViT-S/14, 98 px": ("vit_small_patch14_dinov2", 98),
}
"""Label -> (backbone, image size). Times do not depend on the weights."""
BATCHES: Final = (1, 10)
HEADER: Final = ["model", "images", "by", "ms", "x vitucb", "error"]


def compiled(model: nn.Module, images: Tensor) -> Forward:
    """The module by Inductor."""
    forward: Forward = torch.compile(model)
    forward(images)
    return forward


def by_onnxruntime(model: nn.Module, images: Tensor) -> Forward:
    """An ONNX session on one thread, with all graph optimizations."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = _export(model, images, Path(folder))
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    (name,) = (given.name for given in session.get_inputs())

    def forward(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])

    return forward


def by_openvino(model: nn.Module, images: Tensor) -> Forward:
    """OpenVINO's CPU plugin on one thread, in float32."""
    openvino: Any = importlib.import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = _export(model, images, Path(folder))
        network = core.compile_model(core.read_model(str(path)), "CPU", settings)

    def forward(inputs: Tensor) -> Tensor:
        return torch.from_numpy(network([inputs.numpy()])[0])

    return forward


def _export(model: nn.Module, images: Tensor, folder: Path) -> Path:
    path = folder / "model.onnx"
    torch.onnx.export(model, (images,), path, dynamo=True, external_data=False, verbose=False)
    return path


ROWS: Final[dict[str, tuple[str | None, Callable[[nn.Module, Tensor], Forward]]]] = {
    REFERENCE: (None, lambda model, _: model),
    "timm": (None, lambda model, _: model),
    "torch.compile": (None, compiled),
    "ONNX Runtime": ("onnxruntime", by_onnxruntime),
    "OpenVINO": ("openvino", by_openvino),
}
"""Label -> (module of the peer, what runs a module on images like these)."""


@torch.no_grad()
def compare(label: str, batch: int, rows: Sequence[str], repeats: int) -> list[list[str]]:
    """A row for each way to run one model on one batch."""
    backbone, img_size = MODELS[label]
    side = img_size or 32
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    bare = make_bare(backbone, img_size)
    exact = copy.deepcopy(bare).double()(images.double())
    fast = make_frozen(backbone, img_size)
    fast.load_state_dict(bare.state_dict())
    forwards = {row: ROWS[row][1](fast if row == REFERENCE else bare, images) for row in rows}
    errors = {
        row: float((forward(images).double() - exact).abs().max() / exact.abs().max())
        for row, forward in forwards.items()
    }
    calls = {row: functools.partial(forward, images) for row, forward in forwards.items()}
    times = cpu_times(calls, repeats)
    reference = REFERENCE if REFERENCE in rows else rows[0]
    return [
        [label, str(batch), row, *time_cells(times, row, reference), f"{errors[row]:.0e}"]
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = peer_parser(__doc__, ROWS, repeats=100)
    options: argparse.Namespace = parser.parse_args(arguments)
    rows = chosen_rows(parser, options, {row: module for row, (module, _) in ROWS.items()})
    labels = list(MODELS)[:1] if options.quick else list(MODELS)
    repeats = 3 if options.quick else options.repeats
    print(machine())
    with one_thread():
        found = [
            row
            for label in labels
            for batch in BATCHES
            for row in compare(label, batch, rows, repeats)
        ]
    write_table(out_folder(options) / "frozen-forward.csv", [HEADER, *found])


if __name__ == "__main__":
    main()
