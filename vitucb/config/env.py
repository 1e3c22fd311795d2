"""Settings of the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitucb.config.checks import (
    NOT_NEGATIVE,
    ONE_OR_MORE,
    PROBABILITY,
    Range,
    check_most,
    check_ranges,
    normalise_options,
)
from vitucb.config.options import Options


@dataclass(frozen=True)
class DataConfig:
    """Which images of the dataset are used, and how they are read."""

    split: Literal["all", "train", "tune", "eval"] = "all"
    """Use 60, 20 or 20 % of the images, chosen by a hash of path or content."""
    classes: tuple[str, ...] = ()
    """Names of the classes to use, in label order; all if not given."""
    image_size: int | None = None
    """Side to resize images to, pixels; the dataset's own size if not given."""
    skip_bad: bool = False
    """Leave out images that cannot be read instead of refusing the dataset."""
    disk_cache: bool = False
    """Keep decoded images on disk, for sets larger than memory."""
    cache_folder: str | None = None
    """Where decoded images and downloads go; $VITUCB_DATA or ~/.cache/vitucb if not given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_ranges(self, "env.data.", {"image_size": ONE_OR_MORE})


@dataclass(frozen=True)
class DelayConfig:
    """Rewards that come later or never."""

    law: Literal["none", "fixed", "uniform", "geometric", "heavy-tailed"] = "none"
    """Law of the delay; none pays at once."""
    rounds: int = 32
    """Mean delay, rounds."""
    loss_probability: float = 0.0
    """Probability that a reward never arrives."""
    tail: float = 1.5
    """Tail index of heavy-tailed delays, above 1; up to 2 their variance is infinite."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        # Beyond these, delays are no numbers of 64 bits, or not even finite.
        ranges = {
            "rounds": Range(0, 1e9),
            "loss_probability": PROBABILITY,
            "tail": Range(1, 1e6, is_low_out=True),
        }
        check_ranges(self, "env.delay.", ranges)


@dataclass(frozen=True)
class DriftConfig:
    """Mean rewards that move to other classes during the run."""

    kind: Literal["none", "abrupt", "gradual", "recurring"] = "none"
    """At once, little by little, or back and forth."""
    at: int | None = None
    """First round with other means, 0-based; half the horizon if not given."""
    period: int | None = None
    """Rounds of the transition (gradual) or of a phase (recurring); a tenth of the horizon if not
    given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_ranges(self, "env.drift.", {"at": NOT_NEGATIVE, "period": ONE_OR_MORE})


@dataclass(frozen=True)
class ArmSubsetConfig:
    """A random subset of the arms on offer each round."""

    min_arms: int | None = None
    """Fewest arms on offer; all arms every round if not given."""
    max_arms: int | None = None
    """Most arms on offer; all if not given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        names = ("min_arms", "max_arms")
        check_ranges(self, "env.arm_subset.", dict.fromkeys(names, ONE_OR_MORE))


@dataclass(frozen=True)
class SlateConfig:
    """Several arms shown at once, in positions from first to last."""

    slots: int | None = None
    """Positions of a slate; every round fills one, and rewards come when all are. None: one arm."""
    examination: tuple[float, ...] = ()
    """Probability that each position is looked at, first to last; always if not given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_ranges(self, "env.slate.", {"slots": ONE_OR_MORE})


@dataclass(frozen=True)
class EnvConfig:
    """The environment; a field left at None takes the environment's own default."""

    id: str = "vitucb/ImageArms-v0"
    """gymnasium id, e.g. vitucb/ImageArms-v0 or my_pkg:my/Env-v0."""
    dataset: str | None = None
    """digits, a .npz file, an image folder, a .csv manifest, or a timm name like torch/cifar10."""
    num_arms: int | None = None
    """Arms on offer each round, K."""
    reward: str | None = None
    """bernoulli (by class), gaussian (by class mean) or score (per image)."""
    noise_std: float | None = None
    """Standard deviation of the reward noise, reward units (gaussian and score)."""
    options: Options = field(default_factory=dict)
    """Further keyword arguments of the environment."""
    data: DataConfig = DataConfig()
    delay: DelayConfig = DelayConfig()
    drift: DriftConfig = DriftConfig()
    arm_subset: ArmSubsetConfig = ArmSubsetConfig()
    slate: SlateConfig = SlateConfig()

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        normalise_options(self, "env.")
        check_ranges(self, "env.", {"num_arms": ONE_OR_MORE, "noise_std": NOT_NEGATIVE})
        check_most(self, "env.", "arms", "num_arms")
