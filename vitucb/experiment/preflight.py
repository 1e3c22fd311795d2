"""What can be refused before torch is loaded: places, names of files, environments.

Loading torch and a backbone takes far longer than looking at all of this.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitucb.agents.options import check_optimizer_options
from vitucb.agents.settings import ignored
from vitucb.agents.table import AGENTS
from vitucb.assets import EMBEDDED_DEPTHS
from vitucb.config import AgentConfig, EnvConfig, RunConfig
from vitucb.config.lora import block_numbers, check_init
from vitucb.devices import check_device
from vitucb.envs.data.sources import TIMM_PREFIXES
from vitucb.experiment.environments import make_env
from vitucb.experiment.lock import check_free
from vitucb.experiment.run_folder import RunFolder
from vitucb.experiment.tracking import check_tracker
from vitucb.models.timm_names import check_architecture_name
from vitucb.optim.option_names import check_option_names


def check_places(configs: Sequence[RunConfig]) -> None:
    """Refuse runs whose folder or weights cannot be had; all folders stay as they are.

    Raises:
        ValueError: Names the setting or the folder, and the remedy.
    """
    for config in configs:
        folder = RunFolder.of(config)
        folder.check_same_config()
        if folder.needs_playing:
            check_tracker(config.track)
            check_writable(folder.path, "--out")
            check_free(folder.path)
    check_settings(configs)


def check_settings(configs: Iterable[RunConfig]) -> None:
    """Refuse devices, and parts of agents, that cannot be had.

    What only torch knows (whether a device works, the values of optimizer options, the depth of
    timm's models) is refused when the run begins.

    Raises:
        ValueError: Names the setting and the remedy.
    """
    for config in configs:
        check_device(config.device)
        _check_agent(config.agent)


def check_environments(configs: Iterable[RunConfig]) -> None:
    """Refuse environments that cannot be built: each is, once, unless a hub has to send it.

    Raises:
        ValueError: If a setting, a class or a column is unknown, or a file is not usable.
    """
    seen: list[tuple[EnvConfig, int]] = []
    for config in configs:
        asked = (config.env, config.num_rounds)
        if asked not in seen and not _may_download(config.env):
            make_env(*asked).close()
        seen.append(asked)


def check_writable(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written in, without making it.

    Args:
        folder: Where something is to be written.
        option: What the user may change.

    Raises:
        ValueError: If it cannot; says why.
    """
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with contextlib.suppress(FileNotFoundError):
            folder.stat()  # refuses names that are too long, and a file on the way
        # Not os.access: it says yes to root everywhere.
        os.rmdir(tempfile.mkdtemp(prefix=".probe-", dir=nearest))
    except OSError as error:
        raise ValueError(
            f"{option}: {folder} cannot be written ({error.strerror}: {nearest}); give a folder "
            "that you may write in"
        ) from error


def _check_agent(agent: AgentConfig) -> None:
    """Refuse settings that do not go together, and files that are named and are not there."""
    check_optimizer_options(agent.optimizer)
    unused = ignored(agent)
    if "agent.lora.init" not in unused:
        waits = agent.name == "vit-ucb" and agent.experts != ("adapted",)
        check_init(
            agent.lora.init,
            agent.lora.rank,
            "agent.lora.init",
            waits=waits or agent.name not in AGENTS,
        )
    if agent.name in AGENTS:
        _check_parts(agent, unused)
    if agent.weights is not None and "agent.weights" not in unused:
        path = Path(agent.weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise ValueError(f"agent.weights {agent.weights!r}: no such .safetensors file")
    source, _, location = agent.backbone.partition(":")
    is_used = source == "local-dir" and "agent.backbone" not in unused
    if is_used and not (Path(location) / "config.json").is_file():
        raise ValueError(
            f"agent.backbone {agent.backbone!r}: no config.json in {location!r}; name a folder "
            "saved by timm"
        )


def _check_parts(agent: AgentConfig, unused: Sequence[str]) -> None:
    """Refuse what the backbone and the optimizer of an agent of ours do not have."""
    if not any(key.startswith("agent.optimizer.options") for key in unused):
        check_option_names(agent.optimizer.name, agent.optimizer.options)
    if "agent.backbone" in unused:
        return
    check_architecture_name(agent.backbone)
    depth = EMBEDDED_DEPTHS.get(agent.backbone)
    if depth is not None and "agent.lora.blocks" not in unused:
        block_numbers(agent.lora.blocks, depth, "agent.lora.blocks")


def _may_download(env: EnvConfig) -> bool:
    return env.dataset is not None and env.dataset.partition("/")[0] in TIMM_PREFIXES
