"""Agents on the Hugging Face Hub, through huggingface_hub's own mixin, with a generated card.

What is sent is what `save` writes: nothing in it is code, and whoever loads it unpickles nothing.
It holds what the agent remembers, which may be images it was shown.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin

from vitucb.agents.saving import Blueprint
from vitucb.inert_text import visible
from vitucb.serving.answers import Counts
from vitucb.serving.deployed_agent import DeployedAgent
from vitucb.serving.load import load_agent

_TAGS = ["contextual-bandit", "reinforcement-learning", "vision-transformer"]


class HubAgent(ModelHubMixin):
    """A deployed agent with `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Attributes:
        deployed: The agent, to use as ever.
    """

    # The mixin would make it from the arguments of __init__; ours has all it needs in its folder.
    _hub_mixin_config = {"library_name": "vitucb"}  # noqa: RUF012  as the mixin declares it

    def __init__(self, deployed: DeployedAgent) -> None:
        """Take `deployed`, from `vitucb.deploy` or `vitucb.load_agent`."""
        self.deployed = deployed

    def _save_pretrained(self, save_directory: Path) -> None:
        self.deployed.save(save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str = "cpu",
        max_unanswered: int | None = None,
        reward_range: tuple[float, float] | None = None,
        trust: Sequence[str] = (),
        **_: Any,
    ) -> HubAgent:
        """An agent from a folder, or from a repository; the last four are `load_agent`'s."""
        options: dict[str, Any] = {
            "device": device,
            "max_unanswered": max_unanswered,
            "reward_range": reward_range,
            "trust": trust,
        }
        if Path(model_id).is_dir():
            return cls(load_agent(model_id, **options))
        # The hub's cache is made of links out of the folder, which load_agent refuses.
        folder = tempfile.mkdtemp(prefix="vitucb-hub-")
        try:
            huggingface_hub.snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                local_dir=folder,
            )
            agent = cls(load_agent(folder, **options))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Kept as long as the agent: to be saved again it may need its backbone's files.
        weakref.finalize(agent.deployed, shutil.rmtree, folder, ignore_errors=True)
        return agent

    def generate_model_card(self, *_: Any, **more: Any) -> ModelCard:
        """The card: what it is, what it learnt from, how to load it; `more` goes to its head."""
        data = ModelCardData(library_name="vitucb", tags=_TAGS, **more)
        text = card_text(self.deployed.blueprint, self.deployed.counts)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def card_text(blueprint: Blueprint, counts: Counts) -> str:
    """The body of a model card, Markdown."""
    config = blueprint.config
    names = ", ".join(blueprint.action_names[:100])
    height, width, channels = blueprint.image_shape
    shown = "one image for all of them" if blueprint.shares_image else "an image each"
    rows = {
        "agent": config.label or config.name,
        "arms": f"{blueprint.num_arms}, {shown}",
        **({"names of the arms": names} if names else {}),
        "images": f"{height} x {width} pixels, {channels} channels; others are resized",
        "backbone": config.backbone,
        "policy": config.policy.name,
        "seed": str(blueprint.seed),
        "decisions made": f"{counts.decided:,}",
        "rewards learnt": f"{counts.learnt:,}",
    }
    # Text of the user's: a bar would end the cell.
    table = [f"| {k} | {visible(v).replace('|', '&#124;')} |" for k, v in rows.items()]
    lines = (
        "# An image bandit",
        "",
        "A contextual bandit of [vitucb](https://pypi.org/project/vitucb): it picks one of several",
        "images, or one of several labels of an image, and learns from every reward.",
        "",
        "| | |",
        "|---|---|",
        *table,
        "",
        "```python",
        "import vitucb",
        "",
        'agent = vitucb.HubAgent.from_pretrained("USER/NAME").deployed  # or a folder',
        "decision = agent.act(images)  # uint8 (K, H, W, C)",
        "agent.observe(decision, reward=1.0)",
        "```",
        "",
        "It goes on learning where it stood. Its state holds what it remembers of rewarded rounds,",
        "which may be their images: publish it only if you may publish these.",
        "",
    )
    return "\n".join(lines)
