"""The table of decisions that wait: bounded, exact about how each ended."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitucb.serving.pending import PendingDecision, PendingDecisions
from vitucb.types import Decision, Observation


def decision(action: int = 0) -> Decision:
    zeros = np.zeros(3)
    phi = torch.arange(12.0).reshape(3, 4)[action]
    return Decision(action, 1.0, zeros, zeros, phi, 0, zeros)


def observation() -> Observation:
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1)
    return {"images": images, "action_mask": np.ones(3, np.int8)}


def waiting() -> PendingDecision:
    return PendingDecision.of(observation(), decision(), whole=False, with_phi=False)


@given(
    steps=st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60),
    capacity=st.integers(1, 5),
)
def test_it_agrees_with_a_plain_model(steps: list[int | None], capacity: int) -> None:
    table = PendingDecisions(capacity)
    names: list[str] = []
    open_names: list[str] = []
    ends: list[tuple[str, str]] = []
    for step in steps:
        if step is None:
            names.append(table.add(waiting()))
            open_names.append(names[-1])
            if len(open_names) > capacity:
                ends.append((open_names.pop(0), "forgotten"))
        elif step < len(names) and table.find(names[step]) is not None:
            table.answer(names[step])
            open_names.remove(names[step])
            ends.append((names[step], "answered"))
    remembered = dict(ends[-capacity:])
    assert [n for n in names if table.find(n) is not None] == open_names
    assert [table.end_of(n) for n in names] == [remembered.get(n) for n in names]
    assert table.forgotten == sum(end == "forgotten" for _, end in ends)
    assert table.decided == len(names) == len(set(names))
    assert table.num_held <= 2 * capacity


def test_only_the_chosen_image_is_kept_and_it_is_found_in_its_place() -> None:
    obs, choice = observation(), decision(action=2)
    kept = PendingDecision.of(obs, choice, whole=False, with_phi=True)
    original = obs["images"][2].copy()
    obs["images"][:] = 0  # the caller may use its memory again
    assert kept.images.nbytes == original.nbytes
    assert kept.observation["images"].shape == obs["images"].shape
    np.testing.assert_array_equal(kept.observation["images"][2], original)
    assert kept.decision.phi.untyped_storage().nbytes() == 4 * 4  # not the features of all arms
    whole = PendingDecision.of(obs, choice, whole=True, with_phi=False)
    np.testing.assert_array_equal(whole.observation["images"], obs["images"])
    assert whole.decision.phi is None


def test_two_that_go_on_from_one_state_give_out_other_ids() -> None:
    table = PendingDecisions(3)
    first = table.add(waiting())
    twins = [PendingDecisions(3), PendingDecisions(3)]
    for twin in twins:
        twin.load_state_dict(table.state_dict(), Maker())
    new = [table.add(waiting()), *(twin.add(waiting()) for twin in twins)]
    assert len({first, *new}) == 4
    assert all(twin.find(first) is not None for twin in twins)


@dataclasses.dataclass(frozen=True)
class Weighed(Decision):
    """A decision of an agent's own."""

    weight: float


class Maker:
    """Stands for an agent of this module."""


def test_decisions_of_an_agents_own_class_come_back_whole() -> None:
    values = {f.name: getattr(decision(), f.name) for f in dataclasses.fields(Decision)}
    kept = PendingDecision.of(
        observation(), Weighed(**values, weight=0.5), whole=True, with_phi=False
    )
    again = PendingDecision.from_state(kept.state_dict(), Maker()).decision
    assert isinstance(again, Weighed)
    assert again.weight == 0.5


def test_smaller_table_forgets_the_oldest_of_a_saved_one() -> None:
    table, smaller = PendingDecisions(3), PendingDecisions(1)
    names = [table.add(waiting()) for _ in range(3)]
    smaller.load_state_dict(table.state_dict(), Maker())
    assert smaller.find(names[2]) is not None
    assert len(smaller) == 1
    assert smaller.forgotten == 2


def test_table_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_unanswered 0 must be at least 1"):
        PendingDecisions(0)
