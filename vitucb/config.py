"""The configuration of one run: frozen dataclasses, and a YAML file as partial override.

Defaults live here and nowhere else. Names of optimizers, covariances and so on are checked
against their tables before anything heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from vitucb.durable import write_durably
from vitucb.free_options import ON_COMMAND_LINE, Option, settled
from vitucb.typed_override import checked as checked
from vitucb.typed_override import flatten as flatten
from vitucb.typed_override import override as override
from vitucb.typed_override import override_key as override_key
from vitucb.typed_override import to_dict as to_dict

FreeOptions = Annotated[dict[str, Option], ON_COMMAND_LINE]
FREE_OPTIONS = ("env.options", "agent.options", "agent.optimizer.options")
"""The settings that are options free in name."""


def _settle_options(section: Any, prefix: str) -> None:
    object.__setattr__(section, "options", settled(section.options, f"{prefix}options"))


def _check_least(section: Any, prefix: str, least: dict[str, int]) -> None:
    """Refuse values of `section` below the least; None is none."""
    for name, bound in least.items():
        value = getattr(section, name)
        if value is not None and value < bound:
            raise ValueError(f"{prefix}{name} {value} must be at least {bound}")


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


@dataclass(frozen=True)
class ArmSubsetConfig:
    """A random subset of the arms on offer each round."""

    min_arms: int | None = None
    """Fewest arms on offer; all arms every round if not given."""
    max_arms: int | None = None
    """Most arms on offer; all if not given."""


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
    options: FreeOptions = field(default_factory=dict)
    """Further keyword arguments of the environment."""
    data: DataConfig = DataConfig()
    delay: DelayConfig = DelayConfig()
    drift: DriftConfig = DriftConfig()
    arm_subset: ArmSubsetConfig = ArmSubsetConfig()

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        _settle_options(self, "env.")


@dataclass(frozen=True)
class LoRAConfig:
    """The adapters."""

    rank: int = 4
    """Rank r of every adapter."""
    alpha: float = 8.0
    """Scaling of B @ A is alpha / rank."""
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Adapted layers of a block: any of qkv proj fc1 fc2."""
    blocks: tuple[int, ...] | None = None
    """Adapted blocks, negative from the end; all if not given."""
    init: str = "default"
    """Start of the factors: default gaussian orthogonal olora pissa, or pissa_niter_N."""
    use_rslora: bool = False
    """Scale B @ A by alpha / sqrt(rank) (rsLoRA)."""
    use_dora: bool = False
    """Learn magnitudes apart from directions (DoRA); gradient features take K backwards."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The LoRA optimizer; the reward head is stepped by AdamW inside it."""

    name: str = "adamw"
    """See `vitucb list optimizers`, or an import path module:Class."""
    lr: float = 3e-5
    """Learning rate of the adapters."""
    head_lr: float = 1e-2
    """Learning rate of the reward head, where it is trained by gradient steps."""
    options: FreeOptions = field(default_factory=dict)
    """Further keyword arguments of the optimizer, e.g. ratio 16 betas 0.9,0.99."""

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        _settle_options(self, "agent.optimizer.")


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


@dataclass(frozen=True)
class PolicyConfig:
    """How means and widths become an action."""

    name: str = "ucb"
    """See `vitucb list policies`."""
    alpha: float = 0.3
    """Multiplier of the confidence width."""
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


@dataclass(frozen=True)
class TrainingConfig:
    """The online update after each reward."""

    update_every: int = 1
    """Train every so many rounds."""
    gradient_steps: int = 1
    """Optimizer steps per training; 0 leaves the adapters alone, and a closed-form head learns."""
    batch_size: int = 16
    """Images per step: the newest and a uniform sample of the replay."""
    replay_capacity: int = 20_000
    """Chosen images kept."""
    replay: Literal["reservoir", "window"] = "reservoir"
    """Past the capacity keep a uniform sample of the history, or the newest (sliding window)."""
    discount: float = 1.0
    """Weight of every observation after one more round, 1 for rewards that do not drift."""
    reset_on_drift: bool = False
    """Forget all rewards when the prediction errors have shifted."""
    rebuild: Literal["drift", "doubling", "replay", "none"] = "drift"
    """When the features in the covariance are computed anew with today's adapters: whenever the
    history has doubled or a probe of them has moved; when it has doubled; those of every training
    batch, too, from the pass that trains; or never (the prototype's behaviour)."""
    drift_threshold: float = 0.2
    """Relative movement of the probe's features that triggers a rebuild."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        least = {"update_every": 1, "gradient_steps": 0, "batch_size": 1, "replay_capacity": 1}
        _check_least(self, "agent.training.", least)


@dataclass(frozen=True)
class AgentConfig:
    """The agent and its parts."""

    name: str = "vit-ucb"
    """See `vitucb list agents`, or an import path module:factory."""
    label: str | None = None
    """Name in run folders and reports; the agent's name if not given."""
    backbone: str = "vitucb-nano"
    """vitucb-nano (ships with the package), any timm ViT name, or local-dir:PATH."""
    weights: str | None = None
    """A .safetensors file with the weights of the backbone."""
    img_size: int | None = None
    """Side of the square input of the backbone, pixels."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products in the backbone from the first adapter on (vit-ucb): bfloat16 is
    up to twice as fast where the processor has it, and good to two or three digits."""
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
    options: FreeOptions = field(default_factory=dict)
    """Settings of one agent alone, e.g. hidden 100 of neural-ucb; see the agent's module."""
    lora: LoRAConfig = LoRAConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    covariance: CovarianceConfig = CovarianceConfig()
    policy: PolicyConfig = PolicyConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        """Check the options, and read truth values in any case."""
        _settle_options(self, "agent.")


@dataclass(frozen=True)
class ParallelConfig:
    """Several processes that train one agent, or several seeds that share a backbone."""

    seeds: int = 1
    """Seeds that go through the model together; see `vitucb.parallel_seeds`."""
    sync_every: int = 1
    """Rounds that every process plays between two syncs."""
    timeout_s: float = 60.0
    """Seconds after which a process that does not answer counts as lost."""
    ranks: int = 1
    """Number of processes; torchrun sets it."""
    rank: int = 0
    """Number of this process; torchrun sets it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check_least(self, "parallel.", {"seeds": 1, "sync_every": 1, "ranks": 1, "rank": 0})
        if not self.timeout_s > 0:
            raise ValueError(f"parallel.timeout_s {self.timeout_s} must be above 0")


@dataclass(frozen=True)
class RunConfig:
    """One run: one agent, one environment, one seed, one folder of results."""

    experiment: str = "default"
    """Folder under --out that groups runs for one report."""
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    seed: int = 0
    """Seed of every source of chance; agents with one seed face the same contexts and noise."""
    num_rounds: int = 1_000
    """Horizon T."""
    out: str = "runs"
    """Folder of experiments."""
    device: str = "cpu"
    """Torch device, e.g. cpu, cuda."""
    threads: int = 1
    """Torch threads; one seed reproduces a run bit for bit at the same number."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    record_every: int = 10
    """Rounds between rows of metrics.csv and points in TensorBoard."""
    images_every: int | None = None
    """Rounds between pictures of the arms in TensorBoard; a tenth of the horizon if not given."""
    checkpoint_every: int | None = None
    """Rounds between checkpoints; as often as 5 % of the time allows if not given."""
    overwrite: bool = False
    """Start anew although the run folder is finished or could be resumed."""
    parallel: ParallelConfig = ParallelConfig()

    def __post_init__(self) -> None:
        """Refuse intervals below one round, and no thread at all."""
        names = ("record_every", "images_every", "checkpoint_every", "threads")
        _check_least(self, "", dict.fromkeys(names, 1))


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that change what a run records: dotted key -> (old, new) where they differ."""
    olds, news = (flatten(to_dict(config)) for config in (old, new))
    keys = [key for key in dict.fromkeys([*olds, *news]) if key not in _HARMLESS]
    return {k: (olds.get(k), news.get(k)) for k in keys if olds.get(k) != news.get(k)}


# Settings that may change between the parts of a run: its rounds stay the same.
_HARMLESS = (
    "out",
    "overwrite",
    "tensorboard",
    "checkpoint_every",
    "images_every",
    "parallel.timeout_s",
)


def load_config(path: str | Path, base: RunConfig | None = None) -> RunConfig:
    """Read a YAML file as a partial override of the defaults.

    Raises:
        ValueError: If the file is missing, no YAML mapping, or has unknown keys or wrong types.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config {path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"--config {path}: expected key: value settings at the top level")
    return override(base or RunConfig(), values or {})


def save_config(config: RunConfig, path: Path) -> None:
    """Write the fully resolved config as YAML."""
    write_durably(path, yaml.safe_dump(to_dict(config), sort_keys=False))
