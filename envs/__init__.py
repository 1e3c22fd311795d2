"""Gymnasium environments of image bandits, and the image sets they draw arms from.

Importing this package registers every environment of `ENVS` with gymnasium. It needs numpy and
gymnasium only; Pillow, scikit-learn and timm are imported when a data set that needs them is
loaded.
"""

from __future__ import annotations

if __name__ == "envs":
    raise ImportError(
        "import this package as vitucb.envs; the bare name belongs to other distributions"
    )

import gymnasium

from vitucb.envs.data.datasets import DATASETS, ImageDataset, load_dataset
from vitucb.envs.wrappers.delayed_reward import DelayedReward
from vitucb.envs.wrappers.drifting_rewards import DriftingRewards
from vitucb.envs.wrappers.random_arm_subset import RandomArmSubset
from vitucb.envs.wrappers.slate_arms import SlateArms
from vitucb.envs.wrappers.slot_by_slot import SlotBySlot

__all__ = [
    "DATASETS",
    "ENVS",
    "WRAPPERS",
    "DelayedReward",
    "DriftingRewards",
    "ImageDataset",
    "RandomArmSubset",
    "SlateArms",
    "SlotBySlot",
    "load_dataset",
]

ENVS = {
    "vitucb/ImageArms-v0": "K images of distinct classes, or K rated images, in shuffled slots",
    "vitucb/ImageContext-v0": "one image, K labels to choose from; 1 if right, 0 if wrong",
    "vitucb/RatedItems-v0": "K random rated images, reward normal around the rating",
    "vitucb/DigitsPaper-v0": "arm i shows a random image of digit i, slots fixed, reward N(i, 3^2)",
    "vitucb/Creatives-v0": "an item and K pictures to show for it, paid in clicks; ids of both",
    "vitucb/Logged-v0": "the rounds of a log again, accepted where the agent chooses as it did",
}
"""Environment id -> one line on what it is."""

WRAPPERS = {
    "env.delay.law": "DelayedReward: fixed, uniform, geometric or heavy-tailed delays, and losses",
    "env.drift.kind": "DriftingRewards: abrupt, gradual or recurring permutation of the classes",
    "env.arm_subset.min_arms": "RandomArmSubset: random arms are masked each round",
    "env.slate.slots": "SlateArms: several arms at once, a reward of each position, or clicks",
}
"""Setting that wraps an environment -> the wrapper and what it does."""


def _register(env_id: str, entry_point: str, horizon: int | None) -> None:
    """Register once: this module may be imported again after a reload."""
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=entry_point, max_episode_steps=horizon)


_register("vitucb/ImageArms-v0", "vitucb.envs.image_arms:ImageArmsEnv", horizon=1_000)
_register("vitucb/ImageContext-v0", "vitucb.envs.image_context:ImageContextEnv", horizon=1_000)
_register("vitucb/RatedItems-v0", "vitucb.envs.rated_items:RatedItemsEnv", horizon=1_000)
_register("vitucb/DigitsPaper-v0", "vitucb.envs.digits_paper:DigitsPaperEnv", horizon=10_000)
_register("vitucb/Creatives-v0", "vitucb.envs.creatives:CreativesEnv", horizon=5_000)
# It ends by itself, after the last round of the log.
_register("vitucb/Logged-v0", "vitucb.envs.logged:LoggedEnv", horizon=None)
