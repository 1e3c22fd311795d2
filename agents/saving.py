"""A saved agent: a folder with everything the agent is and has learnt, and nothing that executes.

DIR/agent.json                       format, versions, number of arms, SHA-256 sums of the rest
DIR/config.yaml                      settings and seed, written as those of a run
DIR/state.json, state.safetensors    what it has learnt
DIR/adapter/                         its adapters in PEFT's own format, for use elsewhere
DIR/backbone/                        the weights of the backbone, if they came from a local file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from vitucb.config import AgentConfig, load_config, to_dict
from vitucb.storage.atomic_files import drop_leftovers, temporary_beside, write_durably
from vitucb.storage.foreign_files import check_inside, path_inside, read_json, sha256_of
from vitucb.storage.limits import check_limit, check_observation
from vitucb.storage.replaced_folder import check_replaceable, replace_folder
from vitucb.types import Agent, State, action_names, shares_image

_logger = logging.getLogger(__name__)

MANIFEST = "agent.json"
_FORMAT = 1
_BACKBONE, _SUM = "backbone", "sha256"
_LOCAL = "local-dir:"
# What huggingface_hub writes beside the agent once; its user may have changed it.
_TAKEN_OVER = ("README.md", "config.json")
_LISTED = {"config.yaml", "state.json", "state.safetensors"}
_PACKAGES = ("vitucb", "torch", "timm", "peft", "numpy")


class StandIn(gym.Env[Any, Any]):
    """The spaces an agent is built for, with no environment behind them."""

    def __init__(self, num_arms: int, image_shape: tuple[int, ...], shares_image: bool) -> None:
        """Make the spaces of K arms with an image uint8 (H, W, C) each, or one for all."""
        images = (1 if shares_image else num_arms, *image_shape)
        self.observation_space = gym.spaces.Dict(
            {
                "images": gym.spaces.Box(0, 255, images, np.uint8),
                "action_mask": gym.spaces.MultiBinary(num_arms),
            }
        )
        self.action_space = gym.spaces.Discrete(num_arms)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an agent is built from.

    Attributes:
        config: Its settings.
        seed: Seed of its every source of chance.
        num_arms: Number of arms K.
        shares_image: Whether one image is the context of all arms.
        image_shape: Height, width and channels of the images it was built for; others do too.
        action_names: Names of the K actions that share an image; empty where nobody told them.
    """

    config: AgentConfig
    seed: int
    num_arms: int
    shares_image: bool
    image_shape: tuple[int, ...]
    action_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        images = "one image for all" if self.shares_image else "an image each"
        return f"{self.config.label or self.config.name}, {self.num_arms} arms, {images}"

    def __post_init__(self) -> None:
        if self.num_arms < 1 or (self.shares_image and self.num_arms < 2):
            raise ValueError(
                f"num_arms {self.num_arms} is too few; give at least 1, or 2 that share an image"
            )
        check_limit("arms", self.num_arms, "num_arms")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape {self.image_shape} is not (height, width, channels)")
        images = 1 if self.shares_image else self.num_arms
        check_observation(
            images, math.prod(self.image_shape), f"num_arms of image_shape {self.image_shape}"
        )

    @classmethod
    def of(cls, config: AgentConfig, env: gym.Env[Any, Any], seed: int) -> Blueprint:
        """That of an agent built for `env`."""
        space = env.observation_space
        images = space["images"] if isinstance(space, gym.spaces.Dict) else None
        num_arms = int(getattr(env.action_space, "n", 1))
        shape = (num_arms, 1, 1, 3) if images is None or images.shape is None else images.shape
        is_shared = shares_image(shape[0], num_arms)
        names = action_names(env) if is_shared else ()
        return cls(config, seed, num_arms, is_shared, tuple(int(n) for n in shape[1:]), names)

    def stand_in(self) -> StandIn:
        """An environment to build the agent for."""
        return StandIn(self.num_arms, self.image_shape, self.shares_image)


def save_agent(
    agent: Agent, blueprint: Blueprint, folder: str | Path, more: State | None = None
) -> Path:
    """Write everything needed to go on with `agent` elsewhere.

    The folder is written aside and put in its place when it is whole.

    Args:
        agent: The agent.
        blueprint: What it was built from.
        folder: Made if missing; an agent saved there before is replaced, its README.md kept.
        more: Kept with its state.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds anything else; that would be deleted.
    """
    from vitucb.storage.state_files import save_state

    folder = Path(folder).resolve()
    check_replaceable(folder, _files_of_agent(folder))
    # Another process may be saving there just now, but not for a day.
    drop_leftovers(folder.parent, f"{folder.name}.", older_than_s=86_400.0)
    temporary = temporary_beside(folder)
    save_state({"agent": agent.state_dict(), **(more or {})}, temporary)
    save_adapter = getattr(agent, "save_adapter", None)
    if save_adapter is not None:
        save_adapter(temporary / "adapter")
    config = _with_own_backbone(blueprint.config, temporary)
    settings = {"seed": blueprint.seed, "agent": to_dict(config)}
    write_durably(temporary / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    write_durably(temporary / MANIFEST, json.dumps(_manifest(blueprint, temporary), indent=1))
    replace_folder(temporary, folder, taken_over=_TAKEN_OVER)
    return folder


def read_agent(folder: Path) -> tuple[Blueprint, State]:
    """What `save_agent` wrote: the blueprint, and the state with the agent's under `agent`.

    Raises:
        ValueError: If a file is missing or damaged, or of another format; says which.
    """
    from vitucb.storage.state_files import load_state

    manifest = _read_manifest(folder)
    for name, digest in manifest["files"].items():
        _check_file(folder, name, digest)
    _warn_of_versions(folder, manifest["packages"])
    settings = load_config(folder / "config.yaml")
    config = _with_found_backbone(settings.agent, folder, set(manifest["files"]))
    try:
        blueprint = Blueprint(
            config,
            settings.seed,
            int(manifest["num_arms"]),
            bool(manifest["shares_image"]),
            tuple(map(int, manifest["image_shape"])),
            tuple(map(str, manifest.get("action_names", ()))),  # older folders do not tell
        )
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"saved agent {folder}: {MANIFEST}: {error}") from error
    return blueprint, load_state(folder)


def _check_file(folder: Path, name: str, digest: object) -> None:
    try:
        path = path_inside(folder, name)
    except ValueError as error:
        raise ValueError(f"saved agent {folder}: {MANIFEST}: {error}") from error
    try:
        is_whole = sha256_of(path) == digest
    except OSError:
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"saved agent {folder}: {name} is missing or damaged (its SHA-256 sum differs); "
            "take another copy"
        )


class Savable:
    """An agent that knows what it was built from.

    Attributes:
        blueprint: What it was built from; None if it was put together by hand.
        tied_to: What of its environment it cannot do without; empty for most.
    """

    blueprint: Blueprint | None = None
    tied_to: str = ""

    @property
    def image_passes(self) -> int:
        """Images that went through the backbone so far, or through its adapted part.

        Each way counts: an image that is trained on goes there and back. Images whose features are
        held do not count, and those made anew because a run was stopped do not either.
        """
        return 0

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.blueprint})" if self.blueprint else f"{kind}(put together by hand)"

    def save(self: Any, folder: str | Path) -> Path:
        """Write the agent to `folder`, for `vitucb.load_agent`; returns the folder.

        Raises:
            ValueError: If the folder holds anything else, nobody knows what the agent was built
                from, or it cannot do without its environment.
        """
        if self.blueprint is None:
            raise ValueError("the agent was put together by hand; build it with make_agent")
        if self.tied_to:
            name = self.blueprint.config.name
            raise ValueError(f"save: {name} needs {self.tied_to} and cannot be taken elsewhere")
        return save_agent(self, self.blueprint, folder)


def _files_of_agent(folder: Path) -> set[str]:
    """Files of the agent that is saved in `folder`, and those taken over; none without an agent."""
    try:
        check_inside(folder, folder / MANIFEST)
        return {MANIFEST, *_TAKEN_OVER, *read_json(folder / MANIFEST)["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _with_own_backbone(config: AgentConfig, folder: Path) -> AgentConfig:
    """Weights of the backbone that are local files copied, and named relative to `folder`."""
    if config.weights is None and not config.backbone.startswith(_LOCAL):
        return config
    (folder / _BACKBONE).mkdir()
    if config.weights is not None:
        shutil.copyfile(config.weights, folder / _BACKBONE / "weights.safetensors")
        config = dataclasses.replace(config, weights=f"{_BACKBONE}/weights.safetensors")
    if config.backbone.startswith(_LOCAL):
        source = Path(config.backbone.removeprefix(_LOCAL))
        for path in (*source.glob("*.json"), *source.glob("*.safetensors")):
            shutil.copyfile(path, folder / _BACKBONE / path.name)
        config = dataclasses.replace(config, backbone=f"{_LOCAL}{_BACKBONE}")
    return config


def _with_found_backbone(config: AgentConfig, folder: Path, files: set[str]) -> AgentConfig:
    """Undo `_with_own_backbone`: paths in `folder`, to files in its manifest alone."""
    if config.weights is not None:
        if config.weights not in files:
            raise _unlisted(folder, f"weights {config.weights!r}")
        config = dataclasses.replace(config, weights=str(folder / config.weights))
    if config.backbone.startswith(_LOCAL):
        # The folder is handed to timm, which looks for itself what there is.
        for path in (folder / _BACKBONE).glob("*"):
            name = f"{_BACKBONE}/{path.name}"
            if name not in files or path.suffix not in (".json", ".safetensors"):
                raise _unlisted(folder, repr(name))
        config = dataclasses.replace(config, backbone=f"{_LOCAL}{folder / _BACKBONE}")
    return config


def _unlisted(folder: Path, what: str) -> ValueError:
    return ValueError(
        f"saved agent {folder}: {what} is no file of weights that {MANIFEST} lists; take another "
        "copy, or delete what was added"
    )


def _manifest(blueprint: Blueprint, folder: Path) -> State:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {
        "format": _FORMAT,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "num_arms": blueprint.num_arms,
        "shares_image": blueprint.shares_image,
        "image_shape": list(blueprint.image_shape),
        "action_names": list(blueprint.action_names),
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    }
    return content | {_SUM: _sum_of(content)}


def _read_manifest(folder: Path) -> State:
    try:
        check_inside(folder, folder / MANIFEST)
        manifest: State = read_json(folder / MANIFEST)
        found, writer = manifest["format"], manifest["packages"]["vitucb"]
        if found == _FORMAT and manifest.pop(_SUM) != _sum_of(manifest):
            raise ValueError("its SHA-256 sum differs")
        if found == _FORMAT and _LISTED - set(manifest["files"]):
            raise ValueError(f"it does not list {', '.join(sorted(_LISTED))}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ValueError | OSError) else repr(error)
        raise ValueError(
            f"saved agent {folder}: {MANIFEST} is damaged ({reason}); take another copy"
        ) from error
    if found != _FORMAT:
        raise ValueError(
            f"saved agent {folder} has format {found}, this version reads {_FORMAT}; install "
            f"vitucb {writer}, which wrote it"
        )
    return manifest


def _sum_of(content: State) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _warn_of_versions(folder: Path, old: dict[str, str]) -> None:
    new = {name: metadata.version(name) for name in _PACKAGES}
    changed = [
        f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]
    ]
    if changed:
        _logger.warning(
            "%s was saved with other versions (%s): decisions may differ in the last digits",
            folder,
            ", ".join(changed),
        )
