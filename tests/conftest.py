"""One thread a process: small tensors gain nothing from two, and lose much on a busy machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # BLAS, and the processes that tests start

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# Of a busy machine nothing can be concluded: examples have no deadline and may come slowly.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
