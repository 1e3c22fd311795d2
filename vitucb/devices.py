"""Torch devices: what can be said of a name without torch, and whether torch has it."""

from __future__ import annotations

import ctypes
import difflib
import importlib.util
import re
import sys
from pathlib import Path

_USUAL = ("cpu", "cuda", "mps", "xpu")
_NAME = re.compile(r"[a-z_]+(:\d+)?")


def check_device(device: str) -> None:
    """Refuse a device that torch could not have: misspelt, or CUDA without a driver.

    Of other devices only torch knows whether they are here.

    Raises:
        ValueError: Names the device and the remedy.
    """
    kind = device.partition(":")[0]
    near = difflib.get_close_matches(kind.lower(), _USUAL, n=1, cutoff=0.7)
    if not _NAME.fullmatch(device) or (near and kind not in _USUAL):
        hint = f"did you mean {near[0]}? " if near and near[0] != kind else ""
        raise ValueError(f"device {device!r} is no name of a device; {hint}use cpu, cuda or cuda:0")
    if kind == "cuda" and not _may_have_cuda():
        raise ValueError(
            f"device {device!r} cannot be used: no driver of NVIDIA is installed, or torch is "
            "built without CUDA; use cpu"
        )


def open_device(device: str) -> None:
    """Make something on a device, which shows whether it is here.

    Raises:
        ValueError: Names the device, what torch says, and the remedy.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        here = "cpu or cuda" if torch.cuda.is_available() else "cpu, no other is here"
        raise ValueError(f"device {device!r} cannot be used: {reason}; use {here}") from error


def _may_have_cuda() -> bool:
    """Whether torch is built for CUDA or ROCm and, of the first, whether the driver is here."""
    build = _torch_build()
    if build.get("hip"):
        return True
    if "cuda" in build and not build["cuda"]:
        return False
    if not sys.platform.startswith("linux"):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # what torch itself looks for
    except OSError:
        return False
    return True


def _torch_build() -> dict[str, str]:
    """The versions of CUDA and ROCm that torch says it is built for; empty if it does not say."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).parent / "version.py" if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    found = re.findall(
        r"^(cuda|hip)\b[^=\n]*= *(?:'([^']*)'|None)", path.read_text(encoding="utf-8"), re.M
    )
    return dict(found)
