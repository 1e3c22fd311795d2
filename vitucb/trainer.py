"""The online update: remember the reward, then a few optimizer steps on the replay."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.backbone import Preprocess
from vitucb.config import TrainingConfig
from vitucb.noise import RewardScale
from vitucb.replay import Replay
from vitucb.reward_model import RewardModel
from vitucb.ridge_head import RidgeHead
from vitucb.types import State


class OnlineTrainer:
    """Trains adapters and head of a reward model on standardised rewards, squared loss."""

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        optimizer: torch.optim.Optimizer,
        replay: Replay,
        training: TrainingConfig,
        ridge_head: RidgeHead | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: Scores images; its trainable parameters are adapters and head.
            preprocess: uint8 images to the model's input.
            optimizer: Steps the trainable parameters of `model`.
            replay: Memory of chosen images and rewards.
            training: When and how much to train.
            ridge_head: Solves the head in closed form; None trains it with the optimizer.
        """
        self.model, self.replay, self.optimizer = model, replay, optimizer
        self._preprocess, self._training, self._head = preprocess, training, ridge_head
        self._scale = RewardScale()
        self._rounds = 0
        self._new: list[int] = []

    def predictions(self, score: Tensor) -> NDArray[np.float64]:
        """Scores of the model (K,) in reward units, float64."""
        units: NDArray[np.float64] = score.detach().double().cpu().numpy()
        return self._scale.mean + self._scale.std * units

    def inputs(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> Tensor:
        """Images, of one shape or of many, as the model's input (b, 3, H, W)."""
        if len({image.shape for image in images}) == 1:
            batch: Tensor = self._preprocess(np.stack(list(images)))
            return batch
        return torch.stack([self._preprocess(image) for image in images])

    def observe(self, image: NDArray[np.uint8], reward: float) -> dict[str, float]:
        """Remember a chosen image uint8 (H, W, C) and its reward, and train when due.

        Returns:
            `train/loss`, the mean squared error of the last batch in units of the reward variance,
            if this round trained.
        """
        self._scale.add(reward)
        slot = self.replay.add(image, reward)
        self._new += [] if slot is None else [slot]
        self._rounds += 1
        if self._rounds % self._training.update_every:
            return {}
        loss = 0.0
        for _ in range(self._training.gradient_steps):
            loss = self._step()
        self._new.clear()
        return {"train/loss": loss}

    def _targets(self, rewards: NDArray[np.float64]) -> Tensor:
        """Rewards in units of their running mean and standard deviation, float64."""
        return torch.as_tensor((rewards - self._scale.mean) / self._scale.std)

    def _step(self) -> float:
        """One optimizer step on the newest rewards and a sample of the history; the loss."""
        slots = self.replay.sample(self._training.batch_size, always=self._new)
        images, rewards = self.replay.items(slots)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        features = self.model.features(self.inputs(images))
        if self._head is None:
            errors = self.model.head(features).squeeze(-1) - self._targets(rewards).to(features)
            loss = errors.square().mean()
            loss.backward()
        else:
            loss = self._backward_leave_one_out(self._head, torch.as_tensor(slots), features)
        self.optimizer.step()
        return float(loss.detach())

    def _backward_leave_one_out(self, head: RidgeHead, slots: Tensor, features: Tensor) -> Tensor:
        """Solve the head, then send leave-one-out errors into the adapters; their mean square.

        The gradient is that of the squared loss at a fixed head, sum e_i df_i, with the fitted
        error e_i replaced by the leave-one-out error.
        """
        head.set(slots, features)
        head.fit(self.model.head, self._targets(self.replay.rewards))
        errors = head.leave_one_out_errors(slots).to(features)
        scores = self.model.head(features).squeeze(-1)
        (2 * errors * scores).mean().backward()
        return errors.square().mean()

    def state_dict(self) -> State:
        """Adapters, head, optimizer, replay, reward scale and counters."""
        trainable = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return {
            "model": {name: tensor.clone() for name, tensor in trainable.items()},
            "optimizer": self.optimizer.state_dict(),
            "replay": self.replay.state_dict(),
            "scale": self._scale.state_dict(),
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
        self._scale.load_state_dict(state["scale"])
        if self._head is not None:
            self._head.load_state_dict(state["head"])
        self._rounds, self._new = int(state["rounds"]), [int(slot) for slot in state["new"]]
