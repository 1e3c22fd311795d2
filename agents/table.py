"""The agents by name: how each is built, its family, and which settings it reads.

Nothing is imported until an agent is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from vitucb.policies import SETTINGS as POLICY_SETTINGS

Family: TypeAlias = Literal["contextual", "context-free", "random", "oracle"]
FAMILY_ORDER: tuple[Family, ...] = get_args(Family)
"""As reports list them."""


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """One row of `vitucb list agents`.

    Attributes:
        factory: Import path of `factory(config: AgentConfig, env, seed: int, device: str)`.
        summary: What it is, in a line.
        family: Whether it looks at images; `random` and `oracle` are the ends of the scale.
        reads: Settings of `agent` that it reads, dotted; a section stands for all in it.
        knows_arms_by_number: Whether what it learns belongs to an arm's number, not its image.
        needs_phi: Whether `update` reads `Decision.phi`, which must then be kept for rewards that
            come late.
    """

    factory: str
    summary: str
    family: Family = "contextual"
    reads: frozenset[str] = frozenset()
    knows_arms_by_number: bool = False
    needs_phi: bool = True


# `options` are refused, not ignored, by agents that have none.
READ_BY_ALL = frozenset({"name", "label", "options"})
POLICY_FIELDS = frozenset(
    f"policy.{field}" for fields in POLICY_SETTINGS.values() for field in fields
)
_BACKBONE = frozenset({"backbone", "weights", "img_size"})
_FROZEN = _BACKBONE | {"prefix_cache_mib"}
_POLICY = POLICY_FIELDS | {"policy.name"}
_LINEAR = _FROZEN | {"head_ridge", "training.discount"}
_THOMPSON = frozenset({"policy.alpha", "policy.optimistic", "policy.draws"})
_NEURAL = _FROZEN | {"covariance", "training.update_every", "training.replay_capacity"}
_NETWORK = _BACKBONE | {"optimizer", "training.batch_size", "training.replay_capacity"}
_STEPS = frozenset({f"training.{f}" for f in ("update_every", "gradient_steps", "rebuild")})


def _context_free(function: str, summary: str) -> AgentEntry:
    factory = f"vitucb.agents.baselines.context_free:{function}"
    return AgentEntry(factory, summary, family="context-free", knows_arms_by_number=True)


AGENTS: dict[str, AgentEntry] = {
    "vit-ucb": AgentEntry(
        "vitucb.agents.vit_ucb_build:build",
        "LoRA ViT trained online, mixed with models of frozen features by how well each predicts",
        reads=_FROZEN
        | {"experts", "precision", "head", "head_ridge", "features", "readout", "link"}
        | {"lora", "optimizer", "covariance", "policy", "training"},
    ),
    "kernel-ucb": AgentEntry(
        "vitucb.agents.expert_build:build_kernel_ucb",
        "Gaussian process and UCB on frozen features of the same backbone, for an image per arm",
        # Its multipliers are options of its own.
        reads=_FROZEN | (_POLICY - {"policy.alpha"}) | {"training.discount"},
    ),
    "lin-ucb": AgentEntry(
        "vitucb.agents.baselines.linear:build_lin_ucb",
        "ridge regression and UCB on frozen features of the same backbone",
        reads=_LINEAR | _POLICY,
    ),
    "lin-ts": AgentEntry(
        "vitucb.agents.baselines.linear:build_lin_ts",
        "the same ridge regression with Thompson sampling, one draw of the parameters a round",
        reads=_LINEAR | _THOMPSON,
    ),
    "greedy": AgentEntry(
        "vitucb.agents.baselines.linear:build_greedy",
        "ridge regression on frozen features, no exploration",
        reads=_LINEAR,
    ),
    "neural-ucb": AgentEntry(
        "vitucb.agents.baselines.neural_ucb:build_neural_ucb",
        "small network on frozen features (or CNN), UCB from gradients in all its parameters",
        reads=_NEURAL | _POLICY,
        needs_phi=False,
    ),
    "neural-ts": AgentEntry(
        "vitucb.agents.baselines.neural_ucb:build_neural_ts",
        "the same network with Thompson sampling, a draw per arm",
        reads=_NEURAL | _THOMPSON | {"policy.joint"},
        needs_phi=False,
    ),
    "neural-linear": AgentEntry(
        "vitucb.agents.baselines.neural_linear:build",
        "Bayesian linear regression on the last layer of a trained ViT, Thompson sampling",
        reads=_NETWORK | _THOMPSON | {"lora"},
    ),
    "full-finetune": AgentEntry(
        "vitucb.agents.baselines.full_finetune:build",
        "every weight of the ViT trained online, UCB bonus from its last layer",
        reads=_NETWORK | _STEPS | _POLICY | {"covariance.ridge"},
        needs_phi=False,
    ),
    "prototype": AgentEntry(
        "vitucb.agents.baselines.prototype:build",
        "the ViT-UCB research prototype with its quirks, each switchable",
        reads=_BACKBONE | _POLICY - {"policy.alpha"},
        needs_phi=False,
    ),
    "item-ucb": AgentEntry(
        "vitucb.agents.baselines.item_ucb:build",
        "UCB on the mean reward of every distinct image: a memory that sees no pixel",
        reads=frozenset({"training.discount"}),
        needs_phi=False,
    ),
    "ucb1": _context_free("build_ucb1", "UCB1 on arms by their number, blind to the images"),
    "gaussian-ts": _context_free(
        "build_gaussian_ts", "Gaussian Thompson sampling by number, blind to the images"
    ),
    "kl-ucb": _context_free(
        "build_kl_ucb", "KL-UCB by number for rewards in [0, 1], blind to the images"
    ),
    "beta-ts": _context_free(
        "build_beta_ts", "Beta Thompson sampling by number for rewards in [0, 1], blind"
    ),
    "random": AgentEntry(
        "vitucb.agents.baselines.context_free:build_random",
        "a uniformly random arm",
        family="random",
        knows_arms_by_number=True,
    ),
    "best-fixed-arm": AgentEntry(
        "vitucb.agents.baselines.references:build_best_fixed_arm",
        "the one arm number that is best over the whole horizon, known in hindsight",
        family="context-free",
    ),
    "oracle": AgentEntry(
        "vitucb.agents.baselines.references:build_oracle",
        "knows the mean rewards; regret 0",
        family="oracle",
    ),
}

_BUILD = "vitucb.agents.expert_build:build_"
EXPERTS: dict[str, tuple[str, str]] = {
    "linear": (f"{_BUILD}linear", "ridge regression on frozen features; for labels one of each"),
    "softmax": (f"{_BUILD}softmax", "labels of which one is right: softmax of frozen features"),
    "kernel-softmax": (f"{_BUILD}kernel_softmax", "the same with images that are alike"),
    "logistic": (f"{_BUILD}logistic", "labels of which several may be right: one logit of each"),
    "kernel": (f"{_BUILD}kernel", "an image per arm: Gaussian process of two scales"),
    "adapted": (f"{_BUILD}adapted", "the ViT with LoRA adapters, trained after every reward"),
}
"""Name -> import path of its `vitucb.agents.expert_build.ExpertFactory`, and a line."""


def family_of(name: str) -> Family:
    """Family of an agent; one by import path counts as contextual."""
    return AGENTS[name].family if name in AGENTS else "contextual"
