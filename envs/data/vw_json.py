"""Logs in Vowpal Wabbit's JSON: `--json` (cb_adf) and the decision service's `--dsjson`.

Format: https://github.com/VowpalWabbit/vowpal_wabbit/wiki/JSON and .../wiki/DSJSON. A line is a
round: `_label_cost` and `_label_probability` of the action number `_labelIndex` (from 0; or
`_label_Action`, from 1), the shared features in `c` or at the top, and the actions in `_multi`. An
entry of `_multi` may hold the label instead: `"_label": "0:1.5:0.25"`.

Reward = - cost, which Vowpal Wabbit minimises. It ignores names that begin with `_`, so a line may
carry the path of a picture as `_image`, in every entry of `_multi` or once in the shared features.
Where no line does, the shared features are hashed into vectors, each action has a model of its own,
and the actions are called by their `_tag`, or numbered from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitucb.envs.data.log_rows import finite_number, row_error
from vitucb.envs.data.logged_rounds import LoggedRounds, rounds_without_images
from vitucb.envs.data.tables import Row
from vitucb.storage.limits import check_limit
from vitucb.types import LARGEST_REWARD, PROBABILITY_TOLERANCE

_logger = logging.getLogger(__name__)

_VW_ONLY = (".dsjson", ".cb_json")
VW_SUFFIXES = (".json", *_VW_ONLY)
"""Names of such files; lines in `.jsonl` are recognised too."""

_MULTI, _IMAGE, _TAG = "_multi", "_image", "_tag"
_HASHED_FEATURES = 64


@dataclass(frozen=True, slots=True)
class VwEvent:
    """One labelled line.

    Attributes:
        line: Its 1-based number.
        shared: Features of the context.
        actions: The actions on offer.
        position: Which of them was chosen.
        reward: Minus the cost.
        propensity: Its probability; None if it was not kept.
        dropped_before: Probability with which such lines were dropped from the log, `pdrop`.
    """

    line: int
    shared: Mapping[str, object]
    actions: Sequence[Mapping[str, object]]
    position: int
    reward: float
    propensity: float | None
    dropped_before: float

    @property
    def has_images(self) -> bool:
        """Whether a picture is named."""
        return _IMAGE in self.shared or any(_IMAGE in action for action in self.actions)

    @property
    def names(self) -> tuple[str, ...]:
        """What the actions are called: their tags, or their numbers from 0."""
        return tuple(str(a.get(_TAG, index)) for index, a in enumerate(self.actions))

    def fields(self) -> dict[str, object]:
        """The line as a row of our own kind of log."""
        fields: dict[str, object] = {"reward": self.reward}
        if self.propensity is not None:
            fields["propensity"] = self.propensity
        if _IMAGE in self.shared:
            named = {"context_image": self.shared[_IMAGE], "action": self.names[self.position]}
            return fields | named | {"offered": list(self.names)}
        paths = [action.get(_IMAGE) for action in self.actions]
        return fields | {"arm_images": paths, "action": self.position}


def is_vw_row(path: Path, fields: Mapping[str, object]) -> bool:
    """Whether the first row of a log is Vowpal Wabbit's, by its names or that of the file."""
    if path.suffix.lower() in _VW_ONLY:
        return True
    context = fields.get("c")
    has_label = any(name.lower().startswith("_label") for name in fields)
    return has_label or _MULTI in fields or (isinstance(context, dict) and _MULTI in context)


def vw_events(path: Path, rows: Iterable[Row]) -> tuple[list[VwEvent], int]:
    """The labelled lines, and how many others there are: without a label, or not to be learnt.

    Raises:
        ValueError: If a line is not as the module says; names file, line and field.
    """
    events: list[VwEvent] = []
    left_out = 0
    for line, fields in rows:
        event = None if fields.get("_skipLearn") is True else _event(path, line, fields)
        if event is None:
            left_out += 1
            continue
        events.append(event)
        _check_like_the_first(path, events[0], event)
    if not events:
        raise ValueError(f"log {path}: no line has a cost; give _label_cost, or _label in _multi")
    if left_out:
        _logger.warning("%s: %d lines without a cost are left out", path, left_out)
    return events, left_out


def _check_like_the_first(path: Path, first: VwEvent, event: VwEvent) -> None:
    if (event.propensity is None) != (first.propensity is None):
        problem = "field '_label_probability': give it in all lines or in none"
    elif event.has_images != first.has_images or (_IMAGE in event.shared) != (
        _IMAGE in first.shared
    ):
        problem = f"field {_IMAGE!r}: a log has it in the same place in all lines, or in none"
    elif event.dropped_before != first.dropped_before:
        problem = (
            f"field 'pdrop': {event.dropped_before:g} here and {first.dropped_before:g} before; "
            "rounds of different weight are not supported"
        )
    else:
        return
    raise row_error(path, event.line, problem)


def _event(path: Path, line: int, fields: Mapping[str, object]) -> VwEvent | None:
    """A line, checked; None if it holds no cost."""
    context = fields.get("c", fields)
    if not isinstance(context, dict):
        raise row_error(path, line, "field 'c': is no JSON object; write what was seen")
    actions = context.get(_MULTI)
    label = _top_label(fields) or (_label_in(actions) if isinstance(actions, list) else None)
    if label is None:
        return None
    if not isinstance(actions, list) or not actions or not _are_objects(actions):
        raise row_error(path, line, f"field {_MULTI!r}: give a list with an object per action")
    check_limit("arms", len(actions), f"{path}:{line}: its actions,")
    position = _position(label, len(actions))
    if position is None:
        given = {k: label[k] for k in ("_labelindex", "_label_action") if k in label}
        problem = f"field '_labelIndex': {given} is no one of {len(actions)} actions"
        raise row_error(path, line, problem)
    cost, p = _finite(label["_label_cost"]), label.get("_label_probability")
    if cost is None or abs(cost) > LARGEST_REWARD:
        problem = f"{label['_label_cost']!r} is no finite number"
        raise row_error(path, line, f"field '_label_cost': {problem[:80]}")
    propensity = None if p is None else _finite(p)
    if p is not None and (propensity is None or not 0 < propensity <= 1 + PROBABILITY_TOLERANCE):
        raise row_error(path, line, f"field '_label_probability': {p!r} is not in (0, 1]"[:200])
    return VwEvent(
        line=line,
        shared={k: v for k, v in context.items() if k == _IMAGE or not k.startswith("_")},
        actions=actions,
        position=position,
        reward=0.0 - cost,  # and not -0.0
        propensity=None if propensity is None else min(propensity, 1.0),
        dropped_before=_finite(fields.get("pdrop", 0.0)) or 0.0,
    )


def _are_objects(actions: list[Any]) -> bool:
    return all(isinstance(action, dict) for action in actions)


def _top_label(fields: Mapping[str, object]) -> dict[str, object] | None:
    """`_label_cost` and so on, names in lower case; None if there is no cost."""
    named = {k.lower(): v for k, v in fields.items() if k.lower().startswith("_label")}
    return named if "_label_cost" in named else None


def _label_in(actions: list[Any]) -> dict[str, object] | None:
    """The label of the one action that has one, as `_top_label` gives it."""
    for index, action in enumerate(actions):
        label = action.get("_label") if isinstance(action, dict) else None
        if isinstance(label, str) and label.count(":") in (1, 2):
            cost, *p = label.split(":")[1:]
            found: dict[str, object] = {"_label_cost": cost, "_labelindex": index}
            return found | ({"_label_probability": p[0]} if p else {})
        if isinstance(label, dict):
            named = {f"_label_{k.lower()}": v for k, v in label.items()}
            named.pop("_label_action", None)  # in an entry its place tells
            return named | {"_labelindex": index} if "_label_cost" in named else None
    return None


def _position(label: Mapping[str, object], arms: int) -> int | None:
    """Which action was chosen, from 0; None if the label does not tell one of `arms`."""
    index, number = label.get("_labelindex"), label.get("_label_action")
    known = {value for value in (_whole(index), _before(_whole(number))) if value is not None}
    if len(known) != 1 or not 0 <= min(known) < arms:
        return None
    return known.pop()


def _whole(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole else None  # type: ignore[return-value]  # an int


def _before(number: int | None) -> int | None:
    return None if number is None else number - 1


def _finite(value: object) -> float | None:
    # true is 1 in Python, and no reward, cost or probability in JSON.
    return None if isinstance(value, bool) else finite_number(value)


def vw_rounds(path: Path, events: Sequence[VwEvent], left_out: int) -> LoggedRounds:
    """The rounds of a log without images: hashed contexts, and actions by name.

    Raises:
        ValueError: If actions without tags differ in number, or a tag is there twice.
    """
    names = _all_names(path, events)
    check_limit("log_cells", len(events) * len(names), f"log {path}: rounds times actions,")
    place = {name: index for index, name in enumerate(names)}
    mask = np.zeros((len(events), len(names)), np.int8)
    for row, event in enumerate(events):
        mask[row, [place[name] for name in event.names]] = 1
    known = events[0].propensity is not None
    return rounds_without_images(
        str(path),
        _hashed([event.shared for event in events]),
        mask,
        actions=np.array([place[event.names[event.position]] for event in events], np.int64),
        rewards=np.array([event.reward for event in events]),
        propensities=np.array([event.propensity for event in events], float) if known else None,
        action_names=names,
        dropped=left_out,
    )


def _all_names(path: Path, events: Sequence[VwEvent]) -> tuple[str, ...]:
    """Every action of the log, in the order in which it first comes."""
    names: dict[str, None] = {}
    are_tagged = all(_TAG in action for event in events for action in event.actions)
    for event in events:
        if not are_tagged and len(event.actions) != len(events[0].actions):
            problem = f"field {_MULTI!r}: {len(event.actions)} actions without {_TAG!r} here, "
            problem += f"{len(events[0].actions)} before: which is which? Give each a {_TAG!r}"
            raise row_error(path, event.line, problem)
        if len(set(event.names)) < len(event.names):
            raise row_error(path, event.line, f"field {_TAG!r}: the same for two actions")
        names |= dict.fromkeys(event.names)
    if len(names) < 2:
        raise ValueError(f"log {path}: one action throughout; there is nothing to choose")
    return tuple(names)


def _hashed(contexts: Sequence[Mapping[str, object]]) -> Any:
    """Features as vectors, float32 (n, d): strings and numbers under their names, hashed."""
    # Imported here: scikit-learn takes a second.
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(_HASHED_FEATURES, dtype=np.float32)
    rows = [{name: value for name, value in _flat("", context) if value} for context in contexts]
    return hasher.transform(rows).toarray()


def _flat(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Names and values of the features in nested objects; names that begin with _ are none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not key.startswith("_"):
                yield from _flat(f"{name}/{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            is_nested = isinstance(inner, dict | list)
            yield from _flat(name if is_nested else f"{name}/{index}", inner)
    elif isinstance(value, str):
        yield f"{name}={value}", 1.0
    elif (number := _finite(value)) is not None and abs(number) <= LARGEST_REWARD:
        yield name, number
    elif value is True:
        yield name, 1.0
