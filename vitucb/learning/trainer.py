"""The online update: remember the reward, then a few optimizer steps on the replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from vitucb.config import TrainingConfig
from vitucb.learning.links import Link
from vitucb.learning.replay import Batch, Replay
from vitucb.models.frozen_prefix import PrefixCache
from vitucb.models.lora import lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.preprocess import Preprocess
from vitucb.models.reward_model import RewardModel
from vitucb.types import State


class ClosedFormHead(Protocol):
    """A head solved from the features of the history."""

    def put(
        self,
        slots: Tensor,
        features: Tensor,
        rewards: Tensor,
        actions: Tensor,
        new: Sequence[int] = (),
    ) -> None:
        """Put the observations in the slots `new`, refresh the others."""
        ...

    def fit(self, head: nn.Linear, mean: float, std: float) -> None:
        """Solve and write into `head`; targets are (reward - mean) / std."""
        ...

    def leave_one_out_errors(self, slots: Tensor) -> Tensor:
        """Prediction minus target, each without its own observation: float64 (b,)."""
        ...

    def forget(self, gamma: float) -> None:
        """Multiply all weights by `gamma`."""
        ...

    def clear(self) -> None:
        """Forget all observations."""
        ...

    def state_dict(self) -> State:
        """Everything but the settings."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...


class ScoreGradients(Protocol):
    """Gradients of the live scores in the adapters."""

    def with_hidden(self, images: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients (b, p), and the last layer (b, d) as a leaf that requires grad."""
        ...

    def add_gradient(self, phi: Tensor, coefficients: Tensor) -> None:
        """Add sum_k c_k phi_k to the `.grad` of the adapters."""
        ...

    def projected(self, phi: Tensor) -> Tensor:
        """The gradients as rows of the covariance."""
        ...


class Peers(Protocol):
    """Trainers elsewhere with the same history, who share the work of a batch."""

    @property
    def size(self) -> int:
        """Number of trainers, with this one."""
        ...

    def share(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part of a batch that is this trainer's; the parts in order are the batch."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (b, d) of the whole batch from those (n, d) of every part."""
        ...

    def add_up(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace every `.grad` by its sum over the trainers; returns the sum of the losses."""
        ...


class OnlineTrainer:
    """Trains adapters and head of a reward model with the loss of a reward link."""

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        optimizer: torch.optim.Optimizer,
        replay: Replay,
        training: TrainingConfig,
        link: Link,
        closed_form: ClosedFormHead | None = None,
        gradients: ScoreGradients | None = None,
        prefix: PrefixCache | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: Scores images; its trainable parameters are adapters and head.
            preprocess: uint8 images to the model's input.
            optimizer: Steps the trainable parameters of `model`.
            replay: Memory of chosen images and rewards.
            training: When and how much to train.
            link: From rewards to targets and from scores to rewards.
            closed_form: Solves the head; None trains it with the optimizer.
            gradients: Gradients of the live scores: then the adapters are stepped from these, and
                `fresh_rows` keeps those of the last batch.
            prefix: Makes tokens of images, and remembers them.
        """
        model.prefix = None if prefix is None else prefix.prefix
        self.model, self.replay, self.optimizer, self.link = model, replay, optimizer, link
        self._preprocess, self._training, self._head = preprocess, training, closed_form
        self._gradients, self._prefix = gradients, prefix
        self._adapters = FastAdapters(model, lora_pairs(model), model.precision)
        self.fresh_rows: tuple[NDArray[np.int64], Tensor] | None = None
        self.peers: Peers | None = None
        self._rounds = 0
        self._new: list[int] = []

    def inputs(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images, of one shape or of many, as the model's input: (b, 3, H, W), or tokens."""
        if self._prefix is not None:
            return self._prefix(images)
        if len({image.shape for image in images}) == 1:
            batch: Tensor = self._preprocess(np.stack(list(images)))
            return batch
        return torch.stack([self._preprocess(image) for image in images])

    def observe(
        self, image: NDArray[np.uint8], reward: float, action: int = 0
    ) -> tuple[dict[str, float], int | None]:
        """Remember a chosen image uint8 (H, W, C) and its reward, and train when due.

        Args:
            image: What was chosen, or the context of the choice.
            reward: What it earned.
            action: Output of the model that predicts this reward; 0 where images are the arms.

        Returns:
            Metrics, `train/loss` of the last batch if this round trained (squared loss in units of
            the reward variance); and the slot of the replay, None if it was not kept.

        Raises:
            ValueError: If the link cannot have produced `reward`.
        """
        slot = self.remember(image, reward, action)
        if self._rounds % self._training.update_every:
            return {}, slot
        return {"train/loss": self.train()}, slot

    def remember(self, image: NDArray[np.uint8], reward: float, action: int = 0) -> int | None:
        """`observe` without the training: the slot of the replay, None if it was not kept."""
        self.link.add(reward)
        if self._head is not None and self._training.discount < 1:
            self._head.forget(self._training.discount)
        slot = self.replay.add(image, reward, action)
        self._new += [] if slot is None else [slot]
        self._rounds += 1
        return slot

    def train(self) -> float:
        """Take the optimizer steps of one training; the loss of the last batch."""
        loss = 0.0
        # A head in closed form learns without a step of the optimizer, too.
        for _ in range(max(self._training.gradient_steps, self._head is not None)):
            loss = self._step()
        self._new.clear()
        return loss

    def forget_history(self) -> None:
        """Forget all rewards; adapters and head stay where they are."""
        self.replay.clear()
        self._new.clear()
        if self._head is not None:
            self._head.clear()

    def _step(self) -> float:
        """One optimizer step on the newest rewards and a sample of the history; the loss."""
        peers, size = self.peers, self._training.batch_size
        slots = self.replay.sample(size * (peers.size if peers else 1), always=self._new)
        batch = own = self.replay.items(slots)
        if peers is not None:
            own = self.replay.items(peers.share(slots))
        inputs = self.inputs(own.images)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        phi = None
        if self._gradients is None:
            features = self._adapters(self.model.features, inputs)
        else:
            actions = torch.as_tensor(own.actions, device=inputs.device)
            phi, features = self._gradients.with_hidden(inputs, actions)
        scores, objective, loss = self._aim(batch, own, features)
        if peers is not None:  # Parts may differ in size: each counts by its share of the batch.
            share = len(own.slots) / len(batch.slots)
            objective, loss = objective * share, loss * share
        if self._gradients is not None and phi is not None:
            coefficients = torch.autograd.grad(objective, scores, retain_graph=True)[0]
            self._gradients.add_gradient(phi, coefficients)
            rows = self._gradients.projected(phi)
            self.fresh_rows = (batch.slots, rows if peers is None else peers.gather(rows))
        torch.autograd.backward(objective)
        if peers is not None:
            loss = peers.add_up([p for p in self.model.parameters() if p.requires_grad], loss)
        self._move()
        return float(loss.detach())

    def _move(self) -> None:
        if self._training.gradient_steps:
            self.optimizer.step()

    def _aim(self, batch: Batch, own: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (b,) of the own part, what its gradient is taken of, and the loss to report."""
        if self._head is None:
            actions = torch.as_tensor(own.actions, device=features.device)
            scores = self.model.head(features).gather(1, actions[:, None])[:, 0]
            loss = self.link.loss(scores, torch.as_tensor(own.rewards).to(scores))
            return scores, loss, loss
        scores, errors = self._leave_one_out(self._head, batch, own, features)
        # The gradient of the loss at a fixed head, sum e_i df_i, with the fitted error e_i
        # replaced by the leave-one-out error.
        return scores, (2 * errors * scores).mean(), errors.square().mean()

    def _leave_one_out(
        self, head: ClosedFormHead, batch: Batch, own: Batch, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve the head; scores under it and leave-one-out errors of the own part, (b,) each."""
        hidden = features if self.peers is None else self.peers.gather(features.detach())
        rewards, everyone = torch.as_tensor(batch.rewards), torch.as_tensor(batch.actions)
        head.put(torch.as_tensor(batch.slots), hidden, rewards, everyone, self._new)
        slots, actions = torch.as_tensor(own.slots), torch.as_tensor(own.actions)
        head.fit(self.model.head, self.link.mean, self.link.std)
        weight, bias = self.model.head.weight.detach(), self.model.head.bias.detach()
        scores = linear(features, weight, bias).gather(1, actions.to(features.device)[:, None])
        return scores[:, 0], head.leave_one_out_errors(slots).to(features)

    def state_dict(self) -> State:
        """Adapters, head, optimizer, replay, link and counters."""
        trainable = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return {
            "model": {name: tensor.clone() for name, tensor in trainable.items()},
            "optimizer": self.optimizer.state_dict(),
            "replay": self.replay.state_dict(),
            "link": self.link.state_dict(),
            "head": None if self._head is None else self._head.state_dict(),
            "rounds": self._rounds,
            "new": list(self._new),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                parameters[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.load_state_dict(state["replay"])
        self.link.load_state_dict(state["link"])
        if self._head is not None:
            self._head.load_state_dict(state["head"])
        self._rounds, self._new = int(state["rounds"]), [int(slot) for slot in state["new"]]
