"""The online update: remember the reward, then a few optimizer steps on the replay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from vitucb.config import TrainingConfig
from vitucb.learning.closed_form_head import ClosedFormHead
from vitucb.learning.links import Link
from vitucb.learning.replay import Batch, Replay
from vitucb.learning.split import BatchSplit, WholeBatch
from vitucb.models.frozen_prefix import PrefixCache
from vitucb.models.lora import lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.preprocess import Preprocess
from vitucb.models.reward_model import RewardModel
from vitucb.types import State


class OnlineTrainer:
    """Trains adapters and head of a reward model with the loss of a reward link.

    Attributes:
        image_passes: Images that went through the adapted blocks so far, there and back.
    """

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        optimizer: torch.optim.Optimizer,
        replay: Replay,
        training: TrainingConfig,
        link: Link,
        closed_form: ClosedFormHead | None = None,
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
            prefix: Makes tokens of images, and remembers them.
        """
        model.prefix = None if prefix is None else prefix.prefix
        self.model, self.replay, self.optimizer, self.link = model, replay, optimizer, link
        self._preprocess, self._training, self._head = preprocess, training, closed_form
        self._prefix = prefix
        self._adapters = FastAdapters(model, lora_pairs(model), model.precision)
        self.split: BatchSplit = WholeBatch()
        self._rounds = self.image_passes = 0
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
        split = self.split
        slots = self.replay.sample(self._training.batch_size * split.size, always=self._new)
        batch, own = self.replay.items(slots), self.replay.items(split.share(slots))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        features = self._adapters(self.model.features, self.inputs(own.images))
        objective, loss = self._aim(batch, own, features)
        # Parts may differ in size: each counts by its share of the batch.
        share = len(own.slots) / len(batch.slots)
        torch.autograd.backward(objective * share)
        self.image_passes += 2 * len(own.slots)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        loss = split.add_up(trained, loss * share)
        if self._training.gradient_steps:
            self.optimizer.step()
        return float(loss.detach())

    def _aim(self, batch: Batch, own: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the gradient is taken of, and the loss to report, for the own part of a batch."""
        if self._head is None:
            actions = torch.as_tensor(own.actions, device=features.device)
            scores = self.model.head(features).gather(1, actions[:, None])[:, 0]
            loss = self.link.loss(scores, torch.as_tensor(own.rewards).to(scores))
            return loss, loss
        scores, errors = self._leave_one_out(self._head, batch, own, features)
        # The gradient of the loss at a fixed head, sum e_i df_i, with the fitted error e_i
        # replaced by the leave-one-out error.
        objective = (2 * errors.to(features.device) * scores).mean()
        return objective, errors.square().mean()  # which is known without asking the device

    def _leave_one_out(
        self, head: ClosedFormHead, batch: Batch, own: Batch, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve the head; scores under it and errors of the own part left out, (b,) on the CPU."""
        hidden = self.split.gather(features.detach())
        rewards, everyone = torch.as_tensor(batch.rewards), torch.as_tensor(batch.actions)
        head.put(torch.as_tensor(batch.slots), hidden, rewards, everyone, self._new)
        slots, actions = torch.as_tensor(own.slots), torch.as_tensor(own.actions)
        head.fit(self.model.head, self.link.mean, self.link.std)
        weight, bias = self.model.head.weight.detach(), self.model.head.bias.detach()
        scores = linear(features, weight, bias).gather(1, actions.to(features.device)[:, None])
        return scores[:, 0], head.leave_one_out_errors(slots).to(features.dtype)

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
            "passes": self.image_passes,
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
        self.image_passes = int(state.get("passes", 0))  # older states do not tell
