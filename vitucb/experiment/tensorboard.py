"""TensorBoard events: scalars, settings, arm images and the layout of the custom scalars page.

Written record by record: torch's writer would import torch here, and tensorboard's own writes in a
thread, where a full disk is a traceback that nobody catches.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.storage.atomic_files import create_file
from vitucb.types import Round

_PREFIX = "events.out.tfevents."
_MAX_ARMS = 12
_METRICS = {
    "regret/cumulative": "cumulative regret",
    "reward/mean": "mean reward",
    "time/rounds_per_second": "rounds per second",
}
"""Tag -> name on the page of hparams, in its order."""
_LAYOUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "regret": {
        "cumulative": ("regret/cumulative",),
        "per round": ("regret/instantaneous",),
    },
    "reward": {
        "cumulative": ("reward/cumulative",),
        "mean": ("reward/mean",),
    },
    "confidence": {
        "margin": ("score/mean", "score/bonus"),
        "noise and information": ("score/noise", "covariance/log_det"),
    },
}
"""Category -> chart -> tags, as shown on the custom scalars page."""


class EventLog:
    """The event files of one run folder; every call says at which round."""

    def __init__(self, folder: Path) -> None:
        """Start a new event file in `folder`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder = folder
        # TensorBoard reads the files of a folder by name: a new one must come last, also where the
        # clock was set back since the one before.
        self._seconds = max([time.time(), *(_started(path) + 1.0 for path in event_files(folder))])
        name = f"{_PREFIX}{int(self._seconds):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = create_file(folder / name)
        self._writer = RecordWriter(self._file)
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._write(Event(file_version="brain.Event:2"))
            stack.pop_all()

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Write the settings (hparams) and the layout of the custom scalars page.

        The page of hparams shows regret before reward, and names a trial like its folder.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata
        from tensorboard.plugins.hparams import summary_v2 as hparams

        kinds = (bool, int, float, str)
        shown = {k: v for k, v in settings.items() if isinstance(v, kinds)}
        names = [hparams.HParam(name) for name in shown]
        metrics = [hparams.Metric(tag, display_name=name) for tag, name in _METRICS.items()]
        self._add(hparams.hparams_config_pb(hparams=names, metrics=metrics), 0)
        self._add(hparams.hparams_pb(shown, trial_id=self._folder.name), 0)
        chart, multiline = layout_pb2.Chart, layout_pb2.MultilineChartContent
        layout = layout_pb2.Layout(
            category=[
                layout_pb2.Category(
                    title=title,
                    chart=[chart(title=t, multiline=multiline(tag=tags)) for t, tags in c.items()],
                )
                for title, c in _LAYOUT.items()
            ]
        )
        summary = _summary_type()()
        value = summary.value.add(tag=metadata.CONFIG_SUMMARY_TAG)
        value.metadata.CopyFrom(metadata.create_summary_metadata())
        value.tensor.dtype = _DT_STRING
        value.tensor.tensor_shape.SetInParent()
        value.tensor.string_val.append(layout.SerializeToString())
        self._add(summary, 0)

    def add_scalars(self, scalars: Mapping[str, float], round: int) -> None:
        """One point for each tag."""
        summary = _summary_type()()
        for tag, number in scalars.items():
            summary.value.add(tag=tag, simple_value=float(number))
        self._add(summary, round)

    def add_arms(self, round: Round) -> None:
        """The images on offer side by side, the chosen one underlined in white."""
        strip = arm_strip(round)
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(strip).save(buffer, format="png")
        summary = _summary_type()()
        image = summary.value.add(tag="arms/offered").image
        image.height, image.width, image.colorspace = *strip.shape[:2], 3
        image.encoded_image_string = buffer.getvalue()
        self._add(summary, round.index)

    def _add(self, summary: Any, round: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._write(Event(step=round, summary=summary))

    def _write(self, event: Any) -> None:
        self._seconds = event.wall_time = max(self._seconds, time.time())
        self._writer.write(event.SerializeToString())
        self._writer.flush()  # There for whoever watches.

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of every event file."""
        os.fsync(self._file.fileno())
        return {path.name: path.stat().st_size for path in event_files(self._folder)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def event_files(folder: Path) -> list[Path]:
    """The event files in `folder`, by name."""
    return sorted(folder.glob(f"{_PREFIX}*"))


def _started(path: Path) -> int:
    """The time in the name of an event file, seconds."""
    seconds = path.name.removeprefix(_PREFIX).split(".")[0]
    return int(seconds) if seconds.isdecimal() else 0


def arm_strip(round: Round) -> NDArray[np.uint8]:
    """The offered images in a row, uint8 (H + 4, K * (W + 2), 3), at most 12 arms.

    A white bar stands under the chosen arm, a green one under the best: of more arms, these and the
    first of the others are shown. What is not on offer is dark. Where all arms share one image
    there is only that one.
    """
    images, mask = list(round.observation["images"]), round.observation["action_mask"]
    # The best one is -1 where nobody knows it.
    told = (round.decision.action, round.optimal_action)
    marked = [arm for arm in told if 0 <= arm < len(images)]
    arms = sorted(list(dict.fromkeys([*marked, *range(len(images))]))[:_MAX_ARMS])
    if len({images[arm].shape[:2] for arm in arms}) > 1:
        arms = [min(round.decision.action, len(images) - 1)]
    height, width = images[arms[0]].shape[:2]
    strip = np.zeros((height + 4, len(arms) * (width + 2), 3), np.uint8)
    for place, arm in enumerate(arms):
        left = place * (width + 2)
        is_dim = len(arms) > 1 and not mask[arm]
        # One channel spreads over three.
        strip[:height, left : left + width] = images[arm] // 4 if is_dim else images[arm]
        if len(arms) > 1 and arm == round.optimal_action:
            strip[height + 1 : height + 2, left : left + width] = (0, 200, 120)
        if len(arms) > 1 and arm == round.decision.action:
            strip[height + 2 :, left : left + width] = 255
    return strip


_DT_STRING = 7  # tensorboard.compat.proto.types_pb2.DT_STRING


def _summary_type() -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary
