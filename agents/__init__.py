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
        "vitucb.agents.vit_ucb:build",
        "ViT with LoRA adapters updated online, UCB bonus from LoRA-gradient features",
    ),
    "lin-ucb": (
        "vitucb.agents.linear:build_lin_ucb",
        "ridge regression and UCB on frozen features of the same backbone",
    ),
    "greedy": (
        "vitucb.agents.linear:build_greedy",
        "ridge regression on frozen features, no exploration",
    ),
    "ucb1": ("vitucb.agents.slots:build_ucb1", "UCB1 on slots, blind to the images"),
    "gaussian-ts": (
        "vitucb.agents.slots:build_gaussian_ts",
        "Gaussian Thompson sampling on slots, blind to the images",
    ),
    "random": ("vitucb.agents.slots:build_random", "a uniformly random arm"),
    "oracle": ("vitucb.agents.slots:build_oracle", "knows the mean rewards; regret 0"),
}
