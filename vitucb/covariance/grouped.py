"""Block-diagonal covariance over groups of features, e.g. adapters and head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.scored import Scored


class GroupedCovariance(FeatureCovariance):
    """A = diag(A_1, A_2, ...): quadratic forms, covariances and information gains add up.

    Features hold the groups one after another. Bring the groups to a common scale first (unit RMS
    norm each); with one ridge over raw features the head alone would decide.

    Attributes:
        groups: The covariances by name, in the order of the features.
    """

    def __init__(self, groups: Mapping[str, FeatureCovariance]) -> None:
        """Join covariances.

        Raises:
            ValueError: If there is no group, a group is not empty, or the ridges differ.
        """
        self.groups = dict(groups)
        members = list(self.groups.values())
        if not members or len({member.ridge for member in members}) > 1:
            raise ValueError(
                f"groups {list(self.groups)} must be one or more covariances with one ridge"
            )
        if any(member.count for member in members):
            raise ValueError("groups must start without observations")
        super().__init__(sum(member.dim for member in members), ridge=members[0].ridge)

    @property
    def _sizes(self) -> list[int]:
        return [member.dim for member in self.groups.values()]

    @property
    def memory_bytes(self) -> int:
        """Bytes of all groups."""
        return sum(member.memory_bytes for member in self.groups.values())

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), nats."""
        return sum(member.log_det for member in self.groups.values())

    def _score(self, phi: Tensor) -> Scored:
        parts = [
            member._score(part)
            for member, part in zip(
                self.groups.values(), torch.split(phi, self._sizes, dim=1), strict=True
            )
        ]
        total = torch.stack([part.squares for part in parts]).sum(0)
        return Scored(phi, total, parts=parts)

    def _cov(self, scored: Scored) -> Tensor:
        assert scored.parts is not None
        members = zip(self.groups.values(), scored.parts, strict=True)
        return torch.stack([member._cov(part) for member, part in members]).sum(0)

    def _append(self, scored: Scored, weights: Tensor) -> None:
        assert scored.parts is not None
        for member, part in zip(self.groups.values(), scored.parts, strict=True):
            member._append(part, weights)
            member.count += len(weights)

    def _see_others(self, scored: Scored, index: int) -> None:
        assert scored.parts is not None
        for member, part in zip(self.groups.values(), scored.parts, strict=True):
            member._see_others(part, index)

    def _reset(self) -> None:
        for member in self.groups.values():
            member.rebuild([])

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the groups' lower and upper bounds."""
        bounds = [
            member.interval(part)
            for member, part in zip(
                self.groups.values(), torch.split(phi, self._sizes, dim=-1), strict=True
            )
        ]
        lows, ups = zip(*bounds, strict=True)
        return torch.stack(lows).sum(0), torch.stack(ups).sum(0)

    def certificate(self, phi: Tensor) -> dict[str, float]:
        """The slack of the sums; what else groups know, that of an earlier group first."""
        report: dict[str, float] = {}
        parts = torch.split(phi, self._sizes, dim=-1)
        for member, part in zip(self.groups.values(), parts, strict=True):
            report = member.certificate(part) | report
        return report | super().certificate(phi)

    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""
        parts = torch.split(v, self._sizes, dim=-1)
        members = zip(self.groups.values(), parts, strict=True)
        return torch.cat([member.solve(part) for member, part in members], dim=-1)

    def discount(self, gamma: float) -> None:
        """Forget in every group."""
        self._scored = None
        for member in self.groups.values():
            member.discount(gamma)

    def state_dict(self) -> State:
        """Every group's state under its name, and the counters."""
        state: State = {
            f"{name}.{key}": value
            for name, member in self.groups.items()
            for key, value in member.state_dict().items()
        }
        return {**state, **self._counters()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        for name, member in self.groups.items():
            prefix = f"{name}."
            member.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
