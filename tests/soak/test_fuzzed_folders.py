"""Whatever a folder or a file holds: it loads, or is refused in one line, at little cost.

Every trial changes one file of a saved agent, a run, a log, a gallery, a config or an image set,
and reads it through the library in a child that may use 10 s of processor time (60 in the sample
that the gate plays, whose machine may be busy) and 1 GiB of memory more, and may neither
change nor import anything outside.
"""

from __future__ import annotations

import collections
import inspect
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image

import vitucb
from tests.soak import mutations
from tests.soak.conftest import Trials
from tests.soak.jailed import CPU_SECONDS, Job, Outcome, play_jobs
from vitucb.config import RunConfig, load_config, override, save_config
from vitucb.envs.data.datasets import load_dataset
from vitucb.evaluation.evaluate import evaluate
from vitucb.evaluation.logs import inspect_log, read_log, read_run_log
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import run_folder
from vitucb.report.figures.gallery import gallery_figure
from vitucb.report.groups import group_runs
from vitucb.report.runs import load_gallery, load_metrics, load_runs
from vitucb.report.write import write_report
from vitucb.serving.load import load_agent
from vitucb.types import Observation, Round

TRIALS = 2_000
SAMPLE = 60
WORKERS = 2

Read: TypeAlias = Callable[[Path, random.Random], object]

# An import path in a file is somebody's code; it may be refused only where trust can be given.
if "trust" in inspect.signature(load_agent).parameters:
    mutations.WORDS += ("beside:make", "unittest.__main__:x", "hf-hub:owner/model")


def look_at(images: Any) -> None:
    for index in range(min(len(images), 20)):
        assert images[index].shape == images.shape[1:]


def read_agent(folder: Path, draw: random.Random) -> None:
    """The agent is loaded; what it then does with a state of nonsense is its own affair."""
    load_agent(folder / "agent")


def read_runs(folder: Path, draw: random.Random) -> None:
    if draw.random() < 0.15:
        write_report(folder, folder / "report")
        return
    runs = load_runs(folder)
    for group in group_runs(runs, include_unfinished=True):
        assert group.horizon >= 0
    for run in runs:
        load_metrics(run)


def read_gallery(folder: Path, draw: random.Random) -> None:
    for run in load_runs(folder):
        gallery = load_gallery(run)
        if gallery is not None:
            gallery_figure(gallery)


def read_run_as_agent(folder: Path, draw: random.Random) -> None:
    (run,) = (path.parent for path in folder.glob("*/*/config.yaml"))
    load_agent(run)


def read_run_as_log(folder: Path, draw: random.Random) -> None:
    (run,) = (path.parent for path in folder.glob("*/*/config.yaml"))
    read_run_log(run)


def go_on(folder: Path, draw: random.Random) -> None:
    (path,) = folder.glob("*/*/config.yaml")
    config = override(load_config(path), {"out": str(folder), "experiment": path.parts[-3]})
    if config.num_rounds <= 20:
        play(config)


def evenly(obs: Observation) -> Any:
    mask = np.asarray(obs["action_mask"], np.float64)
    return mask / mask.sum()


def read_logs(folder: Path, draw: random.Random) -> None:
    for path in sorted(folder.glob("log.*")):
        log = read_log(path, skip_missing=draw.random() < 0.3)
        inspect_log(log)
        look_at(log.images)
        if draw.random() < 0.1:
            evaluate(log, evenly, num_resamples=50)


def read_config(folder: Path, draw: random.Random) -> None:
    load_config(folder / "config.yaml")


def read_images(folder: Path, draw: random.Random) -> None:
    look_at(load_dataset(folder / "set", skip_bad=draw.random() < 0.3).images)


def read_arrays(folder: Path, draw: random.Random) -> None:
    look_at(load_dataset(folder / "set.npz").images)


def read_manifest(folder: Path, draw: random.Random) -> None:
    look_at(load_dataset(folder / "set.csv", skip_bad=draw.random() < 0.3).images)


class Material:
    """The folders that are changed: kind -> a folder, its reader, and its share of the trials."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for agent in ("ucb1", "lin-ucb", "greedy"):
            deployed = vitucb.deploy(agent, num_arms=3)
            for _ in range(3):
                decision = deployed.act(np.zeros((3, 8, 8, 3), np.uint8))
            deployed.observe(decision.id, 1.0)
            deployed.save(root / agent / "agent")
        alone = vitucb.deploy("vit-ucb", num_arms=3, experts=["adapted"], lora={"rank": 1})
        alone.save(root / "adapted" / "agent")
        mixed = vitucb.deploy("vit-ucb", num_arms=3, shares_image=True, lora={"rank": 1})
        mixed.save(root / "experts" / "agent")
        self.run(root / "run")
        self.run(root / "unfinished", stop_at=7)
        self.logs(root / "logs")
        (root / "config").mkdir()
        save_config(RunConfig(), root / "config" / "config.yaml")
        self.images(root / "images")
        self.kinds: Mapping[str, tuple[str, Read, int]] = {
            "saved agent, context-free": ("ucb1", read_agent, 3),
            "saved agent, last layer": ("lin-ucb", read_agent, 3),
            "saved agent, frozen": ("greedy", read_agent, 1),
            "saved agent, adapters": ("adapted", read_agent, 1),
            "saved agent, experts": ("experts", read_agent, 1),
            "run, reported": ("run", read_runs, 4),
            "run, its agent": ("run", read_run_as_agent, 1),
            "run, as a log": ("run", read_run_as_log, 1),
            "checkpoints, its agent": ("unfinished", read_run_as_agent, 1),
            "checkpoints, resumed": ("unfinished", go_on, 1),
            "gallery": ("run", read_gallery, 3),
            "log": ("logs", read_logs, 4),
            "config": ("config", read_config, 4),
            "images": ("images", read_images, 3),
            "images in NPZ": ("images", read_arrays, 3),
            "images in a table": ("images", read_manifest, 2),
        }

    def run(self, out: Path, stop_at: int = 100) -> None:
        def stop(round: Round) -> None:
            if round.index == stop_at:
                raise KeyboardInterrupt

        values = {"out": str(out), "agent": {"name": "lin-ucb"}, "num_rounds": 12}
        config = override(
            RunConfig(), values | {"tensorboard": False, "checkpoint_every": 3, "record_every": 2}
        )
        try:
            play(config, stop)
        except KeyboardInterrupt:
            assert run_folder(config).is_dir()

    def logs(self, folder: Path) -> None:
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name in "abcd":
            pixels = rng.integers(0, 256, (9, 7, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
        rows = [f"{'abcd'[i % 4]}.png|{'abcd'[i // 4]}.png,{i % 2},{i / 8},0.5" for i in range(16)]
        text = "\n".join(["arm_images,action,reward,propensity", *rows]) + "\n"
        (folder / "log.csv").write_text(text)
        lines = [
            f'{{"context_image": "{"abcd"[i % 4]}.png", "action": "{i % 3}", "reward": {i / 8}}}'
            for i in range(16)
        ]
        (folder / "log.jsonl").write_text("\n".join(lines) + "\n")

    def images(self, folder: Path) -> None:
        rng = np.random.default_rng(1)
        rows: list[str] = []
        for label in "ab":
            (folder / "set" / label).mkdir(parents=True)
            for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"):
                picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
                picture.save(folder / "set" / label / f"1.{suffix}")
                rows.append(f"set/{label}/1.{suffix},{label},{len(rows) / 3}")
        (folder / "set.csv").write_text("\n".join(["path,label,score", *rows]) + "\n")
        pixels = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
        np.savez_compressed(folder / "set.npz", images=pixels, labels=np.arange(6) % 2)

    def warm_up(self) -> None:
        """Read everything once, so that what is imported on demand is there in the children."""
        write_report(self.root / "run", self.root / "report")
        for source, read, _ in self.kinds.values():
            if read is not go_on:
                read(self.root / source, random.Random(3))

    def job(self, kind: str, seed: int, place: Path) -> Job:
        """One trial: a changed copy, and the call that reads it."""
        draw = random.Random(f"{kind} {seed}")
        source, read, _ = self.kinds[kind]
        folder, outside = place / "inside", place / "outside"
        shutil.copytree(self.root / source, folder)
        outside.mkdir()
        (outside / "precious").write_text("a thesis")
        changed = mutations.mutate(folder, files_for(kind, folder), draw, outside)
        if read is read_agent and draw.random() < 0.85:
            mutations.sum_again(folder / "agent", draw)
        if "checkpoints" in kind and draw.random() < 0.85:
            mutations.sum_checkpoints_again(next(folder.glob("*/*")))
        before = mutations.tree_of(outside)

        def check() -> str:
            changed = mutations.tree_of(outside) != before or len(list(place.iterdir())) != 2
            shutil.rmtree(place)
            return "changed what lies outside" if changed else ""

        return Job(f"{kind} {seed}, {changed}", folder, lambda: read(folder, draw), check)


def files_for(kind: str, folder: Path) -> list[Path]:
    """The files that a kind of trial changes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    wanted: Mapping[str, Callable[[Path], bool]] = {
        "gallery": lambda path: path.name == "gallery.npz",
        "run, reported": lambda path: "checkpoint" not in path.parts,
        "checkpoints, resumed": lambda path: "checkpoint" in path.parts,
        "images": lambda path: path.suffix not in (".npz", ".csv"),
        "images in NPZ": lambda path: path.suffix == ".npz",
        "images in a table": lambda path: path.suffix == ".csv",
        "log": lambda path: path.name.startswith("log.") or path.name == "a.png",
    }
    is_wanted = wanted.get(kind)
    return files if is_wanted is None else [path for path in files if is_wanted(path)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Material]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked children have no other threads
    made = Material(tmp_path_factory.mktemp("material"))
    # Import what is imported on demand once, not in every child.
    made.warm_up()
    yield made
    torch.set_num_threads(threads)


def play_trials(
    material: Material, kinds: Mapping[str, int], root: Path, cpu_seconds: int
) -> list[Outcome]:
    """`kinds`: how many trials of each, which may take so long."""
    jobs = (
        material.job(kind, seed, root / f"{kind.replace(' ', '-').replace(',', '')}-{seed}")
        for kind, count in kinds.items()
        for seed in range(count)
    )
    return list(play_jobs(jobs, WORKERS, cpu_seconds=cpu_seconds))


def table(outcomes: list[Outcome], kinds: Mapping[str, int]) -> str:
    """Kind, trials, loaded, refused, faults, and the largest cost."""
    lines = [f"{'kind':28}{'trials':>8}{'loaded':>8}{'refused':>8}{'faults':>8}{'MiB':>8}{'s':>8}"]
    for kind in kinds:
        own = [o for o in outcomes if o.job.name.startswith(f"{kind} ")]
        own = [o for o in own if o.job.name[len(kind) + 1].isdigit()]
        counts = collections.Counter(o.kind for o in own)
        memory, seconds = max(o.memory_mib for o in own), max(o.seconds for o in own)
        numbers = (len(own), counts["loaded"], counts["refused"], counts["fault"])
        cells = "".join(f"{number:>8}" for number in numbers)
        lines.append(f"{kind:28}{cells}{memory:>8.0f}{seconds:>8.1f}")
    return "\n".join(lines)


def test_sample_of_damaged_folders_loads_or_is_refused(material: Material, tmp_path: Path) -> None:
    kinds = {kind: 4 for kind, (_, read, _) in material.kinds.items() if read is not go_on}
    # What never ends is stopped. How long the rest takes on a busy machine is for the soak tests.
    outcomes = play_trials(material, kinds, tmp_path, cpu_seconds=60)
    assert len(outcomes) >= SAMPLE - 4
    assert [f"{o.job.name}: {o.detail}" for o in outcomes if o.kind == "fault"] == []


@pytest.mark.soak(
    "One file of a saved agent, run, log, gallery, config or image set damaged or forged",
    "loads, or one line that refuses it; at most 10 s and 1 GiB; nothing outside is touched",
)
def test_damaged_folders_load_or_are_refused(
    material: Material,
    tmp_path: Path,
    trials: Trials,
    record_property: Callable[[str, object], None],
) -> None:
    shares = {kind: share for kind, (_, _, share) in material.kinds.items()}
    each = -(-TRIALS // sum(shares.values()))
    kinds = {kind: each * share for kind, share in shares.items()}
    outcomes = play_trials(material, kinds, tmp_path, CPU_SECONDS)
    record_property("table", table(outcomes, kinds))
    for outcome in outcomes:
        trials.check(outcome.kind != "fault", f"{outcome.job.name}: {outcome.detail}")
        trials.measured("MiB", outcome.memory_mib)
        trials.measured("seconds", outcome.seconds)
    assert trials.tried >= TRIALS
