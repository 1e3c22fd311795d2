"""How well frozen features transfer: k-NN and linear probes on sets the backbone may not know.

    python scripts/pretrain/evaluate_backbone.py --data ../shared/data --json vitucb-nano-2.json

Prints a markdown table; the same arguments print the same table. Features are standardised by the
training part. k-NN: cosine similarity, 20 neighbours (5 in the few-label columns), votes weighted
by exp(similarity / 0.07). Linear: multinomial logistic regression; its L2 penalty is picked on a
fifth of the training part (fixed at 1e-2 with few labels). Few labels: mean of 10 random draws.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from pretrain_run import ARCHITECTURES
from pretrain_tools import load_images
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vitucb.assets import DEFAULT_BACKBONE
from vitucb.models.backbone import create_backbone
from vitucb.models.preprocess import Preprocess, preprocess_for

COLUMNS = ("k-NN", "linear", "10/class k-NN", "10/class linear", "50/class k-NN", "50/class linear")
Split = tuple[Tensor, Tensor, Tensor, Tensor]  # training images, labels, test images, labels


def load_split(name: str, data: Path, limit: int) -> Split | None:
    """Images and labels of one set, at most `limit` for training; None when its file is absent."""
    pairs = {
        "cifar10": ("cifar10_train50k_jpeg.npz", "cifar10_test10k_jpeg.npz"),
        "fashion-mnist": ("fashion_mnist_train10k.npz", "fashion_mnist_test10k.npz"),
        "mnist": ("mnist_train10k.npz", "mnist_test10k.npz"),
    }
    if name in pairs:
        train, test = (data / file for file in pairs[name])
        if not (train.is_file() and test.is_file()):
            return None
        images, labels = load_images(train)
        return images[:limit], labels[:limit], *load_images(test)
    if name == "flowers5":
        if not (data / "flowers5_112px_jpeg.npz").is_file():
            return None
        images, labels = load_images(data / "flowers5_112px_jpeg.npz")
        return _halve(images, labels, share=0.75)
    images, labels = _digits()
    return _halve(images, labels, share=0.5)


def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 px, as uint8 (N, 3, 8, 8)."""
    digits = load_digits()
    gray = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))
    return gray[:, None].repeat(1, 3, 1, 1), torch.from_numpy(digits.target)


def _halve(images: Tensor, labels: Tensor, share: float) -> Split:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order.tensor_split([round(share * len(images))])
    return images[train], labels[train], images[test], labels[test]


@torch.no_grad()
def extract(model: nn.Module, preprocess: Preprocess, images: Tensor) -> Tensor:
    """Features (N, d) of uint8 images (N, 3, H, W)."""
    batches = torch.split(images.permute(0, 2, 3, 1), 250)
    return torch.cat([model(preprocess(batch)) for batch in batches])


def knn_accuracy(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, *, neighbours: int) -> float:
    """Share of test rows that a weighted vote of the nearest training rows names rightly."""
    x, test_x = (nn.functional.normalize(rows, dim=1) for rows in (x, test_x))
    right = 0
    for rows, truth in zip(torch.split(test_x, 1000), torch.split(test_y, 1000), strict=True):
        similarity, index = (rows @ x.T).topk(min(neighbours, len(x)))
        votes = torch.zeros(len(rows), int(y.max()) + 1)
        votes.scatter_add_(1, y[index], (similarity / 0.07).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(test_y)


def fit_logistic(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (d, classes) and bias of the regularised maximum likelihood fit (L-BFGS)."""
    classes = int(y.max()) + 1
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = nn.functional.cross_entropy(x @ weight + bias, y)
        loss = loss + penalty * weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        return loss

    solver.step(closure)  # type: ignore[arg-type,no-untyped-call,unused-ignore]
    return weight.detach(), bias.detach()


def linear_accuracy(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, penalty: float) -> float:
    """Test accuracy of a logistic regression."""
    weight, bias = fit_logistic(x, y, penalty)
    return float(((test_x @ weight + bias).argmax(1) == test_y).double().mean())


def pick_penalty(x: Tensor, y: Tensor) -> float:
    """The best of four L2 penalties on a fifth of the training rows that is held out."""
    held, kept = torch.randperm(len(x), generator=torch.Generator().manual_seed(1)).tensor_split(
        [len(x) // 5]
    )
    score = partial(linear_accuracy, x[kept], y[kept], x[held], y[held])
    return max((1e-4, 1e-3, 1e-2, 1e-1), key=score)


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> dict[str, float]:
    """All the columns for one set's features."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, test_x = (x - mean) / std, (test_x - mean) / std
    result = {
        "k-NN": knn_accuracy(x, y, test_x, test_y, neighbours=20),
        "linear": linear_accuracy(x, y, test_x, test_y, pick_penalty(x, y)),
    }
    for shots in (10, 50):
        draws = [_few(y, shots, seed) for seed in range(10)]
        few = [(x[rows], y[rows], test_x, test_y) for rows in draws]
        result[f"{shots}/class k-NN"] = float(
            np.mean([knn_accuracy(*part, neighbours=5) for part in few])
        )
        result[f"{shots}/class linear"] = float(
            np.mean([linear_accuracy(*part, penalty=1e-2) for part in few])
        )
    return result


def _few(y: Tensor, shots: int, seed: int) -> Tensor:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[y[order] == label][:shots] for label in torch.unique(y)])


def milliseconds(model: nn.Module, size: tuple[int, int]) -> dict[str, float]:
    """Median time of one forward, and of one forward and backward, of 10 images."""
    x = torch.randn(10, 3, *size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {"forward": [], "forward and backward": []}
    for _ in range(30):
        start = time.perf_counter()
        with torch.no_grad():
            model(x)
        times["forward"].append(time.perf_counter() - start)
        start = time.perf_counter()
        model(x).sum().backward()
        times["forward and backward"].append(time.perf_counter() - start)
    return {key: round(1e3 * float(np.median(value)), 1) for key, value in times.items()}


def make_model(options: argparse.Namespace) -> nn.Module:
    """The backbone that the command line names."""
    if options.arch == "nano":
        return create_backbone(
            options.backbone, weights=options.weights, pretrained=not options.random
        )
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("vit_nano_patch8_32", **ARCHITECTURES[options.arch])
    if options.weights:
        model.load_state_dict(load_file(options.weights))
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    names = ["cifar10", "fashion-mnist", "mnist", "digits", "flowers5"]
    add("--data", type=Path, default=Path("../shared/data"), help="folder of the .npz files")
    add("--backbone", default=DEFAULT_BACKBONE, help="an alias or timm name; 'pixels' for no model")
    add("--weights", type=Path, help="a .safetensors file to judge instead of the packaged one")
    add("--arch", choices=sorted(ARCHITECTURES), default="nano", help="of pretrain_nano.py")
    add("--random", action="store_true", help="random weights, for comparison")
    add("--sets", nargs="+", choices=names, default=names)
    add("--train-limit", type=int, default=50_000, help="training images per set")
    add("--timing", action="store_true", help="also print milliseconds, which vary")
    add("--threads", type=int, default=1)
    add("--json", type=Path, help="file for the same figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pixels = options.backbone == "pixels"
    model = nn.Flatten() if pixels else make_model(options)
    preprocess = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3) if pixels else preprocess_for(model)
    table: dict[str, dict[str, float]] = {}
    print(f"| set | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}", flush=True)
    for name in options.sets:
        split = load_split(name, options.data, options.train_limit)
        if split is None:
            continue
        x, test_x = (extract(model, preprocess, images) for images in (split[0], split[2]))
        table[name] = probe(x, split[1], test_x, split[3])
        cells = " | ".join(f"{100 * table[name][column]:.1f}" for column in COLUMNS)
        print(f"| {name} | {cells} |", flush=True)
    if options.timing and not pixels:
        print(f"milliseconds for 10 images: {milliseconds(model, preprocess.size)}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
