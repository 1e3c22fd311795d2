"""Reading files that somebody else may have made: regular, of bounded size, inside their folder.

A name in a manifest may lead out of its folder, a link to anywhere, a pipe blocks for ever, a
device never ends, and a few hundred bytes of YAML can stand for gigabytes. Everything here raises
`OSError` or `ValueError` with a reason of one line; whoever reads says which file it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import yaml

from vitucb.storage.limits import check_limit, limit

# libyaml's loader is as safe and several times faster, where PyYAML was built with it.
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_NO_VALUES = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


class _Loader(_BASE):  # type: ignore[misc]  # either of two classes
    """Refuses a key that a mapping has twice; PyYAML keeps the last and says nothing."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """The mapping of `node`, once its own keys, before any is merged in, all differ."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            is_merge = key_node.tag in _NO_VALUES
            key = key_node.value if is_merge else self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                first = "" if lines[key] == line else f"line {lines[key]} and in "
                raise ValueError(
                    f"its key {key_node.value[:80]!r} stands twice in one section, in {first}line "
                    f"{line}; put all of it in one place"
                )
            lines[key] = line
        return super().construct_mapping(node, deep=deep)


_SCALAR_UNIT = 16
_MOST_BITS = 4_096


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes; links to one are followed.

    Raises:
        OSError: If there is none, or it is a folder, a pipe, a socket or a device.
    """
    # Looked at first: opening a device may already do something.
    _check_regular(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    try:
        _check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


_BINARY: int = getattr(os, "O_BINARY", 0)


def _check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is no regular file", os.fspath(path))


def path_inside(folder: Path, name: object) -> Path:
    """`folder / name`, if that is a place in the folder; links may not lead out of it either.

    Raises:
        ValueError: If it is not.
    """
    text = name if isinstance(name, str) else ""
    pure = PurePosixPath(text)
    is_plain = text.isprintable() and "\\" not in text and pure.parts
    if not is_plain or pure.is_absolute() or ".." in pure.parts or Path(text).is_absolute():
        raise ValueError(f"{str(name)[:80]!r} is no name of a file in the folder")
    path = folder / text
    check_inside(folder, path)
    return path


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a path in `folder` that is a link out of it, or goes through one.

    Raises:
        ValueError: If it is.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{path.name} is a link out of the folder; put the file itself there")


def read_bytes(path: Path, limit_name: str) -> bytes:
    """A regular file, if it is not larger than the limit in MiB called `limit_name`."""
    with open_regular(path) as file:
        _check_size(os.fstat(file.fileno()).st_size, limit_name)
        # Files of the kernel say 0, and others may grow.
        content = file.read((limit(limit_name) << 20) + 1)
    _check_size(len(content), limit_name)
    return content


def _check_size(size: int, limit_name: str) -> None:
    check_limit(limit_name, -(-size // 2**20), "its size in MiB,")


def sha256_of(path: Path) -> str:
    """SHA-256 sum of a regular file, hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path, limit_name: str = "json_mib", errors: str = "strict") -> str:
    """The same in UTF-8, with any line ends turned into newlines."""
    text = read_bytes(path, limit_name).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_json(path: Path, *, is_nested_freely: bool = False) -> Any:
    """A JSON file.

    Args:
        path: The file.
        is_nested_freely: Leave the depth to whoever walks the content.
    """
    return parse_json(read_bytes(path, "json_mib"), is_nested_freely=is_nested_freely)


def parse_json(text: str | bytes, *, is_nested_freely: bool = False) -> Any:
    """JSON in UTF-8 whose depth is bounded."""
    try:
        content = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not is_nested_freely:
        _check_depth(content)
    return content


def _check_depth(content: Any) -> None:
    layer, depth = [content], 0
    while layer:
        check_limit("depth", depth, "its depth")
        inner = [
            item.values() if isinstance(item, dict) else item
            for item in layer
            if isinstance(item, dict | list)
        ]
        layer, depth = [item for items in inner for item in items], depth + 1


def read_yaml(path: Path) -> Any:
    """A YAML file of plain data; None if it is empty."""
    text = read_text(path, "config_mib")
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """YAML of plain data; None if it is empty.

    Raises:
        ValueError: If it is none, has a key twice in a mapping, or stands for too much.
    """
    try:
        if not _is_simple(text):
            _check_yaml(text)
        content = yaml.load(text, _Loader)
        _check_integers(content)
        return content
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error, text)) from error
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # numbers, dates and sets that are none: KeyError, AttributeError...
        raise ValueError(f"it holds a value that is not what its tag says: {error!r}") from error


def _is_simple(text: str) -> bool:
    """Whether YAML has no aliases and cannot be nested deeply, seen without parsing it."""
    if "&" in text or "*" in text:
        return False
    brackets = text.count("[") + text.count("{")
    indented = max(len(line) - len(line.lstrip(" -?:\t")) for line in text.split("\n"))
    return brackets + indented < limit("depth")


def _check_yaml(text: str) -> None:
    """Count what YAML stands for, aliases included, before anything is made of it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [
        (None, 0)
    ]  # anchor and size of each, outermost first
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            check_limit("depth", len(open_nodes) - 1, "its depth")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value) // _SCALAR_UNIT
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"its alias *{event.anchor} stands for what it is a part of")
            anchor, size = None, sizes[event.anchor]
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, total = open_nodes[-1]
        open_nodes[-1] = (outer, total + size)
        check_limit("config_nodes", total + size, "its number of values, aliases counted,")


def _check_integers(content: Any) -> None:
    """Refuse integers that cannot even be printed; YAML reads them where they are hexadecimal."""
    if isinstance(content, int) and content.bit_length() > _MOST_BITS:
        raise ValueError(f"it holds an integer of {content.bit_length():,} bits")
    if isinstance(content, dict | list):
        for item in [*content, *(content.values() if isinstance(content, dict) else ())]:
            _check_integers(item)


def _one_line(error: yaml.YAMLError, text: str) -> str:
    """What is wrong with YAML `text`, and the remedy of the commonest mistake."""
    said = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
    mark = getattr(error, "problem_mark", None)
    has_tab = mark is not None and "\t" in "".join(text.splitlines()[mark.line : mark.line + 1])
    return f"{said}; indent with spaces, not with tabs" if has_tab else said
