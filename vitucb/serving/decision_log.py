"""A log of decisions and rewards as they come, which `vitucb evaluate` reads.

Two kinds of JSON lines, joined by `decision_id` when the log is read: what was on offer and chosen,
with its propensity; and, later or never, the reward. Nothing waits in memory to be written, so a
service that dies loses nothing but the line it was writing.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from vitucb.serving.answers import NumberedDecision, decision_id

_logger = logging.getLogger(__name__)

_BLOCK = 1 << 16


class DecisionLog:
    """Appends lines to one file, from any thread; each is written at once.

    Attributes:
        path: The file. Paths of images in it are relative to its folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Go on with the file `path`, or begin it.

        What a process that died left of its last line is cut off, with a warning.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._file = self.path.open("ab", buffering=0)
        if last := _unfinished_line(self.path):
            if _is_json(last):
                self._file.write(b"\n")
            else:
                _logger.warning("%s: cut off a line that stops midway: %s", self.path, last[:80])
                self._file.truncate(self._file.tell() - len(last))

    def decided(
        self,
        decision: NumberedDecision,
        *,
        arm_images: Sequence[str] = (),
        context_image: str = "",
        action_names: Sequence[str] = (),
        action_mask: ArrayLike | None = None,
        **more: Any,
    ) -> None:
        """Write down a decision.

        Args:
            decision: What `DeployedAgent.act` returned.
            arm_images: Path of every arm's image, in the order shown to the agent.
            context_image: Or of the one image that all arms share.
            action_names: Names of the arms that share it; their numbers if empty.
            action_mask: As given to `act`; in a slate, less the arms of the positions before.
            **more: Further fields, as JSON has them, e.g. `time`.

        Raises:
            ValueError: If both or none of the images are given, or not one for every arm.
            OSError: If the line could not be written whole; nothing of it is left then.
        """
        if bool(arm_images) == bool(context_image):
            raise ValueError("give either arm_images or context_image, the images of the round")
        fields: dict[str, Any] = {"decision_id": decision.id, "propensity": decision.propensity}
        if context_image:
            names = action_names or [str(action) for action in range(len(decision.mean))]
            fields |= {"context_image": context_image, "action": names[decision.action]}
            if action_mask is not None:
                on_offer = zip(names, _flat(action_mask), strict=True)
                fields["offered"] = [name for name, is_offered in on_offer if is_offered]
        else:
            arms = len(decision.mean)
            if len(arm_images) != arms:
                raise ValueError(f"arm_images are {len(arm_images)} of {arms} arms; give each one")
            fields |= {"arm_images": list(arm_images), "action": decision.action}
            mask = [True] * arms if action_mask is None else _flat(action_mask)
            if not all(mask):
                # All images are kept, so that an arm has one number throughout the log.
                fields["offered"] = [arm for arm, m in zip(range(arms), mask, strict=True) if m]
        self._append(fields | more)

    def rewarded(self, decision: str | NumberedDecision, reward: float) -> None:
        """Write down the reward of a decision, given by itself or its id.

        Raises:
            OSError: If the line could not be written whole; nothing of it is left then.
        """
        self._append({"decision_id": decision_id(decision), "reward": float(reward)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, fields: dict[str, Any]) -> None:
        line = (json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                written = self._file.write(line)
            except OSError:
                self._file.truncate(end)
                raise
            if written != len(line):  # the disk is full: half a line would spoil the next one
                self._file.truncate(end)
                raise OSError(
                    errno.ENOSPC, f"only {written} of {len(line)} bytes could be written", self.path
                )


def _unfinished_line(path: Path) -> bytes:
    """What stands after the last end of a line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            start = max(0, end - _BLOCK)
            file.seek(start)
            tail, end = file.read(end - start) + tail, start
    return tail.rpartition(b"\n")[2]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _flat(mask: ArrayLike) -> list[Any]:
    import numpy as np

    return list(np.asarray(mask).ravel().tolist())
