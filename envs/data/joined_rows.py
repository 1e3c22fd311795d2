"""Logs whose rewards came later: decisions and rewards on lines of their own, joined by id."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vitucb.envs.data.log_rows import row_error
from vitucb.envs.data.tables import Row

_logger = logging.getLogger(__name__)

DECISION_ID = "decision_id"


class JoinedRows:
    """The rows of a log, each with its reward, in the order of the decisions.

    A row with `decision_id` and a reward, but no action, is the reward of an earlier decision; its
    first reward counts. Rows without `decision_id` stay as they are.

    Attributes:
        without_reward: Decisions whose reward never came, once all rows were read: left out.
    """

    def __init__(self, path: Path, rows: Iterable[Row], action: str, reward: str) -> None:
        """Join `rows` of the log `path`; `action` and `reward` name their columns."""
        self._path, self._rows, self._action, self._reward = path, rows, action, reward
        self.without_reward = 0

    def __iter__(self) -> Iterator[Row]:
        """The rows, joined.

        Raises:
            ValueError: If an id is there for two decisions; names file and line.
        """
        waiting: list[Row] = []
        place: dict[str, int] = {}
        for line, fields in self._rows:
            name = fields.get(DECISION_ID)
            if name is None or (self._action in fields and self._reward in fields):
                # Nothing to join; and a log without ids need not be held in memory here.
                if not place:
                    yield line, fields
                    continue
                waiting.append((line, fields))
            elif self._action in fields:
                if str(name) in place:
                    problem = f"{str(name)[:60]!r} is the id of another decision, too"
                    raise row_error(self._path, line, f"field {DECISION_ID!r}: {problem}")
                place[str(name)] = len(waiting)
                waiting.append((line, fields))
            elif self._reward in fields:
                self._join(waiting, place, str(name), fields)
            else:
                waiting.append((line, fields))
        for row in waiting:
            if DECISION_ID in row[1] and self._reward not in row[1] and self._action in row[1]:
                self.without_reward += 1
                continue
            yield row
        if self.without_reward:
            _logger.warning(
                "%s: %d decisions have no reward and are left out; if none means 0, write it down",
                self._path,
                self.without_reward,
            )

    def _join(
        self, waiting: list[Row], place: dict[str, int], name: str, fields: Mapping[str, object]
    ) -> None:
        index = place.get(name)
        if index is None:  # of a decision in an earlier file
            return
        line, decision = waiting[index]
        if self._reward not in decision:
            waiting[index] = line, {**decision, self._reward: fields[self._reward]}
