"""What a round offers, and that the experts are experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitucb.learning.experts.expert import Expert, Offer, Sleeper
from vitucb.learning.experts.linear import LinearExpert
from vitucb.learning.experts.softmax import LabelExpert


def offer(images: int, arms: int) -> Offer:
    return Offer(np.zeros((images, 4, 4, 3), np.uint8), torch.zeros(images, 5).double(), arms)


@pytest.mark.parametrize(("images", "arms", "shared"), [(1, 3, True), (3, 3, False), (1, 1, False)])
def test_arms_share_an_image_where_there_are_more_of_them(
    images: int, arms: int, shared: bool
) -> None:
    assert offer(images, arms).is_shared is shared


def test_the_row_of_an_arm_is_the_first_where_arms_share_an_image() -> None:
    assert [offer(1, 3).row(a) for a in range(3)] == [0, 0, 0]
    assert [offer(3, 3).row(a) for a in range(3)] == [0, 1, 2]


def test_linear_never_sleeps_and_softmax_may() -> None:
    linear, softmax = LinearExpert(5), LabelExpert(5, 3)
    assert isinstance(linear, Expert)
    assert not isinstance(linear, Sleeper)
    assert isinstance(softmax, Sleeper)
