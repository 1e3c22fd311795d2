"""The agents, installed as `vitucb.agents`.

`AGENTS` maps a name to the import path of its factory and a line for `vitucb list agents`;
nothing is imported until an agent is built. A factory is called as `factory(config: AgentConfig,
env, seed: int, device: str) -> Agent`.
"""

from __future__ import annotations

if __name__ == "agents":
    raise ImportError(
        "import this package as vitucb.agents; the bare name belongs to other distributions"
    )

AGENTS: dict[str, tuple[str, str]] = {
    "vit-ucb": (
        "vitucb.agents.vit_ucb_build:build",
        "ViT with LoRA adapters updated online, UCB bonus from LoRA-gradient features",
    ),
    "lin-ucb": (
        "vitucb.agents.baselines.linear:build_lin_ucb",
        "ridge regression and UCB on frozen features of the same backbone",
    ),
    "lin-ts": (
        "vitucb.agents.baselines.linear:build_lin_ts",
        "the same ridge regression with Thompson sampling, one draw of the parameters a round",
    ),
    "greedy": (
        "vitucb.agents.baselines.linear:build_greedy",
        "ridge regression on frozen features, no exploration",
    ),
    "neural-ucb": (
        "vitucb.agents.baselines.neural_ucb:build_neural_ucb",
        "small network on frozen features (or CNN), UCB from gradients in all its parameters",
    ),
    "neural-ts": (
        "vitucb.agents.baselines.neural_ucb:build_neural_ts",
        "the same network with Thompson sampling, a draw per arm",
    ),
    "neural-linear": (
        "vitucb.agents.baselines.neural_linear:build",
        "Bayesian linear regression on the last layer of a trained ViT, Thompson sampling",
    ),
    "full-finetune": (
        "vitucb.agents.baselines.full_finetune:build",
        "every weight of the ViT trained online, UCB bonus from its last layer",
    ),
    "prototype": (
        "vitucb.agents.baselines.prototype:build",
        "the ViT-UCB research prototype with its quirks, each switchable",
    ),
    "ucb1": (
        "vitucb.agents.baselines.context_free:build_ucb1",
        "UCB1 on slots, blind to the images",
    ),
    "gaussian-ts": (
        "vitucb.agents.baselines.context_free:build_gaussian_ts",
        "Gaussian Thompson sampling on slots, blind to the images",
    ),
    "kl-ucb": (
        "vitucb.agents.baselines.context_free:build_kl_ucb",
        "KL-UCB on slots for rewards in [0, 1], blind to the images",
    ),
    "beta-ts": (
        "vitucb.agents.baselines.context_free:build_beta_ts",
        "Beta Thompson sampling on slots for rewards in [0, 1], blind to the images",
    ),
    "random": ("vitucb.agents.baselines.context_free:build_random", "a uniformly random arm"),
    "best-fixed-arm": (
        "vitucb.agents.baselines.references:build_best_fixed_arm",
        "the one slot that is best over the whole horizon, known in hindsight",
    ),
    "oracle": (
        "vitucb.agents.baselines.references:build_oracle",
        "knows the mean rewards; regret 0",
    ),
}
