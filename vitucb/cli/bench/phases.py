"""Where the time of a round goes: CPU time of an agent's parts, and of the network's operations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_NETWORK = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::linear",
    "mkldnn::_linear_pointwise",
    "aten::convolution",
    "aten::gelu",
    "aten::native_layer_norm",
    "aten::_scaled_dot_product",
    "aten::_softmax",
)


class Phases:
    """CPU time of what methods do, exclusive of each other: the outermost counts.

    Attributes:
        seconds: Of each phase so far.
        phase: The one running now, None outside of all.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.phase: str | None = None

    def watch(self, owner: object, methods: Mapping[str, str]) -> None:
        """Count the time in `methods` of `owner`: name -> phase."""
        for name, phase in methods.items():
            setattr(owner, name, self._timed(getattr(owner, name), phase))

    def _timed(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            if self.phase is not None:
                return call(*args, **named)
            self.phase, start = phase, time.process_time()
            try:
                return call(*args, **named)
            finally:
                self.seconds[phase] += time.process_time() - start
                self.phase = None

        return timed


class NetworkTime(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """CPU time of this thread in operations of the network: products, attention, norms, GELU."""

    def __init__(self, phases: Phases) -> None:
        """Count while `phases` is in scoring or training."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base is untyped
        self.seconds, self._phases = 0.0, phases

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and time it if it is one of the network's."""
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        if self._phases.phase in ("scoring", "training") and func.name().startswith(_NETWORK):
            self.seconds += time.thread_time() - start
        return result
