"""Speed and memory of reading an image folder: first look, from memory, from the disk cache.

    python scripts/benchmarks/bench_data.py SET.npz [--image-size 224]

writes the JPEG stream of SET.npz (arrays jpeg, offsets, labels) as an image folder into a temporary
folder, and reads all images in random order: decoded, again, and in a fresh process from the disk
cache. Prints a Markdown table. One thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vitucb.envs import load_dataset

_BATCH = 64


def write_folder(stream: Path, root: Path) -> None:
    """Write every image of a JPEG stream as `root/CLASS/INDEX.jpg`."""
    with np.load(stream) as file:
        data, offsets, labels = file["jpeg"], file["offsets"], file["labels"]
    for index, label in enumerate(labels.tolist()):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        content = data[offsets[index] : offsets[index + 1]].tobytes()
        (folder / f"{index}.jpg").write_bytes(content)


def read_twice(root: Path, image_size: int, cache: Path | None) -> dict[str, float]:
    """Load, read everything in one random order, then in another."""
    started = time.perf_counter()
    dataset = load_dataset(
        root, image_size=image_size, disk_cache=cache is not None, cache_folder=cache
    )
    figures = {"load, s": time.perf_counter() - started}
    for name, seed in (("first pass, images/s", 0), ("second pass, images/s", 1)):
        order = np.random.default_rng(seed).permutation(len(dataset.images))
        started = time.perf_counter()
        for start in range(0, len(order), _BATCH):
            _ = dataset.images[order[start : start + _BATCH]]
        figures[name] = len(order) / (time.perf_counter() - started)
    # Without the pages of mapped files, which the system takes back when it needs them.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]
    figures["private memory, MiB"] = int(kib) / 1024
    return figures


def main() -> None:
    """Run every case in a process of its own, since memory is per process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stream", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--child", nargs=2, metavar=("ROOT", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.stream.is_file():
        parser.error(f"no file {args.stream}; name an .npz with arrays jpeg, offsets and labels")
    if args.child:
        cache = Path(args.child[1]) if args.child[1] else None
        print(json.dumps(read_twice(Path(args.child[0]), args.image_size, cache)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "images"), Path(folder, "cache")
        write_folder(args.stream, root)
        cases = (("memory", ""), ("disk cache, empty", cache), ("disk cache, filled", cache))
        for number, (name, place) in enumerate(cases):
            words = [sys.executable, __file__, str(args.stream), "--image-size"]
            words += [str(args.image_size), "--child", str(root), str(place)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout)
            if number == 0:
                print("| case | " + " | ".join(figures) + " |")
                print("|---" * (len(figures) + 1) + "|")
            print(f"| {name} | " + " | ".join(f"{x:,.4g}" for x in figures.values()) + " |")


if __name__ == "__main__":
    main()
