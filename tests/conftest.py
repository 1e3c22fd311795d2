"""One thread a process: small tensors gain nothing from two, and lose much on a busy machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # BLAS, and the processes that tests start

import torch

torch.set_num_threads(1)
