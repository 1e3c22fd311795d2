"""Settings of the agent and its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from vitucb.assets import DEFAULT_BACKBONE, EMBEDDED_BACKBONES
from vitucb.config.checks import (
    NOT_NEGATIVE,
    ONE_OR_MORE,
    POSITIVE,
    Range,
    check_most,
    check_ranges,
    normalise_options,
)
from vitucb.config.lora import LoRAConfig
from vitucb.config.options import Options

LR_ALONE = 3e-5
"""Learning rate of the adapters in agents that train alone."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The LoRA optimizer; the reward head is stepped by AdamW inside it."""

    name: str = "adamw"
    """See `vitucb list optimizers`, or an import path module:Class."""
    lr: float | None = None
    """Learning rate of the adapters; if not given, the optimizer's own among experts, and 3e-5 in
    agents that train alone."""
    head_lr: float = 1e-2
    """Learning rate of the reward head, where it is trained by gradient steps."""
    options: Options = field(default_factory=dict)
    """Further keyword arguments of the optimizer, e.g. ratio 16 betas 0.9,0.99."""

    @property
    def lr_alone(self) -> float:
        """The learning rate in agents that train alone."""
        return LR_ALONE if self.lr is None else self.lr

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        check_ranges(self, "agent.optimizer.", dict.fromkeys(("lr", "head_lr"), NOT_NEGATIVE))
        normalise_options(self, "agent.optimizer.")


@dataclass(frozen=True)
class CovarianceConfig:
    """The covariance of the features, A = ridge I + sum phi phi'."""

    name: str = "exact"
    """See `vitucb list covariances`."""
    ridge: float | None = None
    """Ridge, in units of the squared feature norm (features are of norm 1); if not given, 2 where
    every arm has its image and 0.1 where actions share one."""
    rank: int | None = None
    """Rank or width of a sketch; its own default if not given."""
    budget_mib: int | None = None
    """Memory of the rows of `exact`, MiB, past which a sketch takes over; 24 if not given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would fill the memory."""
        ranges = {"ridge": POSITIVE, "rank": ONE_OR_MORE, "budget_mib": ONE_OR_MORE}
        check_ranges(self, "agent.covariance.", ranges)
        check_most(self, "agent.covariance.", "rank", "rank")


@dataclass(frozen=True)
class PolicyConfig:
    """How means and widths become an action."""

    name: str = "ucb"
    """See `vitucb list policies`."""
    alpha: float = 0.3
    """Multiplier of the confidence width; among experts, of linear alone, and twice as much beside
    others: kernel and adapted have multipliers of their own."""
    radius: Literal["auto", "constant", "oful"] = "auto"
    """Width per sqrt(phi' A^-1 phi) in vit-ucb: the noise estimated from prediction errors, 1, or
    the radius of Abbasi-Yadkori et al. 2011 with that noise (theory; explores far too much)."""
    delta: float = 0.05
    """Failure probability of radius oful."""
    norm_bound: float = 1.0
    """Assumed length of the true parameter for radius oful, reward units."""
    epsilon: float = 0.05
    """Exploration probability of epsilon-greedy, min(1, epsilon t^-decay) in round t."""
    temperature: float = 0.1
    """Temperature of boltzmann, temperature t^-decay in round t, reward units."""
    decay: float = 0.0
    """Exponent of the schedules of epsilon and temperature: 0 constant, 0.333, 0.5, 1 (1/t)."""
    joint: bool = False
    """Thompson draws all arms jointly, as one draw of the parameters would."""
    optimistic: bool = False
    """Thompson never draws below the mean."""
    draws: int = 1_000
    """Monte Carlo draws for the propensity of joint Thompson sampling."""
    variant: Literal["square-cb", "fast-cb", "falcon"] = "square-cb"
    """Kind of inverse gap weighting (igw)."""
    gamma: float = 10.0
    """Sharpness of igw, gamma t^growth in round t, 1 / reward units."""
    growth: float = 0.5
    """Exponent of the schedule of gamma."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        names = ("alpha", "norm_bound", "epsilon", "gamma")
        ranges = {
            **dict.fromkeys(names, NOT_NEGATIVE),
            # Far beyond any schedule of use; a power of the round could overflow past it.
            **dict.fromkeys(("decay", "growth"), Range(0, 10)),
            "delta": Range(0, 1, is_low_out=True, is_high_out=True),
            "temperature": POSITIVE,
            "draws": ONE_OR_MORE,
        }
        check_ranges(self, "agent.policy.", ranges)
        if self.epsilon > 1 and self.decay == 0:
            raise ValueError(
                f"agent.policy.epsilon {self.epsilon} must be in [0, 1] unless decay is above 0"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """The online update after each reward."""

    update_every: int = 1
    """Train every so many rounds."""
    gradient_steps: int = 1
    """Optimizer steps per training; 0 leaves the adapters alone, and a closed-form head learns."""
    batch_size: int = 16
    """Images per step: a uniform sample of the replay, among them the newest in agents that train
    alone."""
    replay_capacity: int = 20_000
    """Chosen images kept."""
    replay: Literal["reservoir", "window"] = "reservoir"
    """Past the capacity keep a uniform sample of the history, or the newest (sliding window)."""
    discount: float = 1.0
    """Weight of every observation after one more round, 1 for rewards that do not drift."""
    reset_on_drift: bool = False
    """Forget all rewards when the prediction errors have shifted."""
    rebuild: Literal["drift", "doubling", "none"] = "drift"
    """When the features in the covariance are computed anew with today's adapters: whenever the
    history has doubled or a probe of them has moved; when it has doubled; or never (the
    prototype's behaviour)."""
    augment: Literal["none", "shift"] = "shift"
    """Images that the expert `adapted` trains on among others: as they are, or also moved by up to
    3/32 of a side; never mirrored."""
    patch_drop_rate: float | None = None
    """Share of the patches of an image, others each time, that a step of the expert `adapted` among
    others leaves out, in [0, 1): it costs less, and overfits less. If not given 0.375 with the
    embedded ViT and timm's plain vision transformers of its size, 0.125 with larger ones; other
    backbones, and estimators that need the same terms again, see whole images."""
    drift_threshold: float = 0.2
    """Relative movement of the probe's features that triggers a rebuild."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        names = ("update_every", "batch_size", "replay_capacity")
        ranges = {
            **dict.fromkeys(names, ONE_OR_MORE),
            "gradient_steps": NOT_NEGATIVE,
            "drift_threshold": POSITIVE,
            "patch_drop_rate": Range(0, 1, is_high_out=True),
            "discount": Range(0, 1, is_low_out=True),
        }
        check_ranges(self, "agent.training.", ranges)


@dataclass(frozen=True)
class AgentConfig:
    """The agent and its parts."""

    name: str = "vit-ucb"
    """See `vitucb list agents`, or an import path module:factory."""
    label: str | None = None
    """Name in run folders and reports; the agent's name if not given."""
    experts: tuple[str, ...] | None = None
    """Experts whose predictions vit-ucb mixes: any of linear, softmax, logistic and kernel-softmax
    (one image, K labels), kernel (an image per arm), adapted, or import paths module:factory; if
    not given, linear softmax kernel-softmax adapted for labels, and kernel linear for an image per
    arm. `adapted` alone is the network with the covariance of its own features."""
    backbone: str = DEFAULT_BACKBONE
    """vitucb-nano-2 (ships with the package, as its first edition vitucb-nano does), any timm ViT
    name, or local-dir:PATH."""
    weights: str | None = None
    """A .safetensors file with the weights of the backbone."""
    img_size: int | None = None
    """Side of the square input of the backbone, pixels."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of the products with frozen weights from the first adapter on (vit-ucb): bfloat16 is
    good to two or three digits, and faster on some processors; auto takes it there alone (AMD with
    avx512_bf16), and float32 elsewhere."""
    prefix_cache_mib: int = 256
    """Memory for what the layers before the first adapter, or a frozen backbone, make of images,
    MiB; 0 computes it anew every time."""
    head: Literal["ridge", "gradient"] = "ridge"
    """Reward head solved for after every reward, or trained by gradient steps."""
    head_ridge: float | None = None
    """Ridge of the closed-form head and of lin-ucb, per unit of mean squared feature norm; if not
    given, 1 where every arm has its image and 0.1 where actions share one."""
    features: Literal["lora-gradient", "last-layer", "both"] = "lora-gradient"
    """What the covariance is made of; both are two groups of length 1 each."""
    readout: Literal["prior", "head"] = "prior"
    """Whose LoRA gradient: of a fixed random readout (the head's prior), or of the live score."""
    link: Literal["gaussian", "bernoulli"] = "gaussian"
    """Law of the rewards given the score: squared loss, or logistic loss for rewards 0 and 1."""
    options: Options = field(default_factory=dict)
    """Settings of one agent alone, e.g. hidden 100 of neural-ucb; see the agent's module."""
    lora: LoRAConfig = LoRAConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    covariance: CovarianceConfig = CovarianceConfig()
    policy: PolicyConfig = PolicyConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        normalise_options(self, "agent.")
        ranges = {"img_size": ONE_OR_MORE, "prefix_cache_mib": NOT_NEGATIVE, "head_ridge": POSITIVE}
        check_ranges(self, "agent.", ranges)
        check_most(self, "agent.", "image_side", "img_size")
        self._check_patches()
        if self.experts is not None and len(set(self.experts)) != max(1, len(self.experts)):
            named = ", ".join(self.experts) or "none"
            raise ValueError(f"agent.experts {named}: name at least one, each once")

    def _check_patches(self) -> None:
        """Refuse an `img_size` that the patches of the backbone, known by its name, do not fill."""
        name = EMBEDDED_BACKBONES.get(self.backbone, (self.backbone, ""))[0]
        found = re.search(r"_patch(\d+)", name)
        patch = int(found[1]) if found and ":" not in name else 1
        if self.img_size is not None and self.img_size % patch:
            below = self.img_size - self.img_size % patch
            sizes = " or ".join(str(size) for size in (below, below + patch) if size)
            raise ValueError(
                f"agent.img_size {self.img_size} is not a multiple of {patch}, the patch of "
                f"{self.backbone}; choose {sizes}"
            )
