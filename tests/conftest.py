"""One torch thread: small tensors gain nothing from two, and lose much on a busy machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
