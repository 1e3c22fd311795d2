"""Damage and malice: one seeded change of one file, of any kind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml

Draw: TypeAlias = random.Random

NUMBERS = (
    *(-1, 0, 1, 2, 255, 10**6, 10**9, 2**31, 2**63, 10**18, 10**40, 10**400, -(10**400)),
    *(0.5, -0.5, 1e30, 1e300, -1e300, float("inf"), float("-inf"), float("nan"), True),
)
WORDS: tuple[str, ...] = (
    *("", "x", "0", "1e999", "nan", "../../x", "/dev/zero", "/etc/passwd", "C:\\x", "a\nb", "\0"),
    *("..", "~", "%s{0}", "\x1b[2J", "\u202e", "é" * 3000, "vit_giant_patch14_224", "oracle"),
)
TREES: tuple[Any, ...] = (None, [], {}, [[]], {"a": {"b": []}}, [1, 2, 3], ["x"] * 5000, {"": 0})
TEXTS = (
    *(b"1e400", b"-1", b"9" * 400, b"9" * 5000, b"nan", b"inf", b"[" * 3000, b"{" * 3000, b"\xff"),
    *(b"\0", b"\n", b",", b'"', b"&a [*a]", b"*b", b"!!python/name:os.system", b"0x" + b"f" * 5000),
    *(b"!!timestamp x", b"!!set {a}", b"null", b"true", b"../../x", b"/dev/zero", b"e308", b"\r"),
)


def mutate(folder: Path, files: Sequence[Path], draw: Draw, outside: Path) -> str:
    """Change one of `files` in `folder`; says what was done."""
    path = draw.choice(list(files))
    kinds: list[Callable[[Path, Draw], None]] = [_flip, _flip, _cut, _insert, _repeat]
    if path.suffix in (".json", ".yaml"):
        kinds += [_leaf] * 10
    if path.suffix in (".csv", ".jsonl"):
        kinds += [_cell] * 10
    if path.suffix == ".npz":
        kinds += [_array] * 10
    if path.suffix == ".safetensors":
        kinds += [_header] * 5
    if draw.random() < 0.06:
        return f"{path.name}: {_replace(path, draw, outside)}"
    change = draw.choice(kinds)
    change(path, draw)
    return f"{path.name}: {change.__name__.strip('_')}"


def _flip(path: Path, draw: Draw) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 2, 8))):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, draw: Draw) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) + 1)])


def _insert(path: Path, draw: Draw) -> None:
    content = path.read_bytes()
    at = draw.randrange(len(content) + 1)
    gone = draw.choice((0, 0, 1, 4))
    path.write_bytes(content[:at] + draw.choice(TEXTS) + content[at + gone :])


def _repeat(path: Path, draw: Draw) -> None:
    content = path.read_bytes()
    start = draw.randrange(len(content) + 1)
    piece = content[start : start + draw.randrange(1, 2000)]
    path.write_bytes(content[:start] + piece * draw.randrange(2, 30) + content[start:])


def _value(draw: Draw) -> Any:
    return draw.choice(draw.choice((NUMBERS, NUMBERS, WORDS, TREES)))


def _leaf(path: Path, draw: Draw) -> None:
    """Another value, key or nothing in the place of one leaf of JSON or YAML."""
    text = path.read_text(encoding="utf-8")
    tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    places = list(_places(tree))
    if not places:
        return
    holder, key = draw.choice(places)
    what = draw.random()
    if what < 0.1:
        del holder[key]
    elif what < 0.2 and isinstance(holder, dict):
        holder[draw.choice(WORDS)] = holder.pop(key)
    else:
        holder[key] = _value(draw)
    is_json = path.suffix == ".json"
    path.write_text(json.dumps(tree) if is_json else yaml.safe_dump(tree), encoding="utf-8")


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _cell(path: Path, draw: Draw) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    at = draw.randrange(len(lines))
    cells = lines[at].split(",")
    cells[draw.randrange(len(cells))] = str(_value(draw))[:20_000]
    lines[at] = ",".join(cells)
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")


def _array(path: Path, draw: Draw) -> None:
    """One array of an NPZ file with another header or content, its checksum right."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    name = draw.choice(list(arrays))
    array = arrays[name]
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    body = bytearray(array.tobytes())
    what = draw.randrange(5)
    if what == 0:
        header["shape"] = tuple(draw.choice((0, 1, 2, 10**6, 10**12, -1)) for _ in range(3))
    elif what == 1:
        header["descr"] = draw.choice(("<f8", "|u1", "<i8", "|O", "<U9", "<c16", "|V3", "<f2"))
    elif what == 2 and body:
        for _ in range(4):
            body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    elif what == 3:
        changed = np.full(array.shape, draw.choice(NUMBERS[:8]), np.float64)
        header["descr"], body = "<f8", bytearray(changed.tobytes())
    else:
        body = bytearray(draw.choice((b"", bytes(1 << 24), bytes(body) * 3)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in arrays.items():
            stream = io.BytesIO()
            if other == name:
                np.lib.format.write_array_header_1_0(stream, header)
                stream.write(body)
            else:
                np.lib.format.write_array(stream, content)
            archive.writestr(f"{other}.npy", stream.getvalue())


def _header(path: Path, draw: Draw) -> None:
    """The header of a safetensors file with one leaf changed."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + size])
    places = list(_places(tree))
    if places:
        holder, key = draw.choice(places)
        holder[key] = _value(draw)
    header = json.dumps(tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def _replace(path: Path, draw: Draw, outside: Path) -> str:
    what = draw.choice(("gone", "pipe", "folder", "link", "link to a device", "empty"))
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(outside / "precious")
    elif what == "link to a device":
        path.symlink_to("/dev/zero")
    elif what == "empty":
        path.touch()
    return what


def sum_again(folder: Path, draw: Draw) -> None:
    """Make the manifest of a saved agent right, and now and then wrong in itself."""
    path = folder / "agent.json"
    try:
        if not _is_plain(path):
            return
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p != path]
        sums = {p.relative_to(folder).as_posix(): _sha256(p) for p in files}
        if isinstance(manifest.get("files"), dict) and draw.random() < 0.9:
            manifest["files"] = sums
        manifest.pop("sha256", None)
        manifest["sha256"] = hashlib.sha256(
            json.dumps(manifest, sort_keys=True).encode()
        ).hexdigest()
    except (OSError, ValueError, TypeError, AttributeError):
        return
    path.write_text(json.dumps(manifest), encoding="utf-8")


def sum_checkpoints_again(folder: Path) -> None:
    """Make the manifests of the checkpoints of a run right."""
    for manifest in folder.glob("checkpoint/round-*/manifest.json"):
        try:
            if not _is_plain(manifest):
                continue
            content = json.loads(manifest.read_text(encoding="utf-8"))
            for name in content["files"]:
                if _is_plain(manifest.parent / name):
                    content["files"][name] = _sha256(manifest.parent / name)
            manifest.write_text(json.dumps(content), encoding="utf-8")
        except (OSError, ValueError, TypeError, KeyError):
            continue


def _is_plain(path: Path) -> bool:
    """Whether it can be read to its end: no FIFO, no device, and no link to one."""
    return path.is_file() and not path.is_symlink()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_tree(source: Path, target: Path) -> None:
    """A copy that may be changed."""
    shutil.copytree(source, target)


def tree_of(folder: Path) -> Mapping[str, str]:
    """What lies in `folder`: path -> content, to see whether it was changed."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else _content(p)
        for p in sorted(folder.rglob("*"))
    }


def _content(path: Path) -> str:
    return _sha256(path) if path.is_file() else "folder"
