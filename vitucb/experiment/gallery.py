"""The rounds whose pictures a run keeps, as `gallery.npz` holds them for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitucb.storage.atomic_files import replacing
from vitucb.types import Round


def gallery_entry(round: Round) -> dict[str, Any]:
    """What was on offer in a round and what the agent thought of it, arrays by name."""
    decision = round.decision
    unknown = np.full(len(decision.mean), np.nan)
    columns = {
        "round": round.index,
        "images": round.observation["images"],
        "action_mask": np.asarray(round.observation["action_mask"]).astype(np.int8),
        "mean": decision.mean,
        "width": decision.width,
        "bonus": decision.bonus,
        "expected_rewards": unknown if round.expected_rewards is None else round.expected_rewards,
        "regret": round.regret,
        "action": decision.action,
        "optimal_action": round.optimal_action,
        "reward": round.reward,
        **({} if round.arm_classes is None else {"classes": round.arm_classes}),
    }
    return {name: np.asarray(value) for name, value in columns.items()}


def save_gallery(entries: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write `gallery.npz`; nothing where the images of the rounds differ in shape."""
    if len({np.shape(entry["images"]) for entry in entries}) != 1:
        return
    names = [name for name in entries[0] if all(name in entry for entry in entries)]
    arrays = {name: np.stack([entry[name] for entry in entries]) for name in names}
    with replacing(folder / "gallery.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # keywords are arrays
