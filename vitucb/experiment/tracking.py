"""Trackers of experiments: what TensorBoard gets goes to wandb, trackio or mlflow, too.

wandb (https://docs.wandb.ai/ref/python) and trackio (https://huggingface.co/docs/trackio) share
`init`, `log` and `finish`; mlflow (https://mlflow.org/docs/latest/python_api/mlflow.html) has calls
of its own for the same three. Where they send what they get is theirs: `WANDB_MODE=offline`,
`TRACKIO_DIR`, `MLFLOW_TRACKING_URI=sqlite:///FILE` keep it on the machine.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

_logger = logging.getLogger(__name__)


class Client(Protocol):
    """What is asked of a tracker."""

    def begin(self, project: str, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run `name` of `project`."""
        ...

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """One point for each tag."""
        ...

    def finish(self) -> None:
        """Close the run."""
        ...


class InitLogFinish:
    """wandb and trackio."""

    def __init__(self, module: Any) -> None:
        """Use `module`."""
        self._module = module

    def begin(self, project: str, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run; one of this name that was broken off goes on."""
        self._module.init(project=project, name=name, config=dict(settings), resume="allow")

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """One point for each tag."""
        self._module.log(dict(scalars), step=step)

    def finish(self) -> None:
        """Close the run."""
        self._module.finish()


class Mlflow:
    """mlflow, whose projects are called experiments and whose settings are parameters."""

    def __init__(self, module: Any) -> None:
        """Use `module`."""
        self._module = module

    def begin(self, project: str, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run."""
        self._module.set_experiment(project)
        self._module.start_run(run_name=name)
        self._module.log_params({key: str(value) for key, value in settings.items()})

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """One point for each tag."""
        self._module.log_metrics(dict(scalars), step=step)

    def finish(self) -> None:
        """Close the run."""
        self._module.end_run()


_CLIENTS: Mapping[str, Callable[[Any], Client]] = {
    "wandb": InitLogFinish,
    "trackio": InitLogFinish,
    "mlflow": Mlflow,
}


def check_tracker(name: str) -> None:
    """Refuse a tracker that is not installed; `none` is none.

    Raises:
        ValueError: Names it, and what to install.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ValueError(
            f"track {name!r} is not installed; pip install 'vitucb[{name}]', or leave --track out"
        )


def _talking_aside() -> contextlib.AbstractContextManager[object]:
    """What trackers print goes to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


class Tracker:
    """One run in a tracker; a tracker that fails on the way is left, and the run goes on."""

    def __init__(self, name: str, project: str, run: str, settings: Mapping[str, Any]) -> None:
        """Open the run called `run` of `project`.

        Args:
            name: `wandb`, `trackio` or `mlflow`.
            project: Name of the experiment.
            run: Name of the run.
            settings: Dotted key -> value; those that are None are left out.

        Raises:
            ValueError: If the tracker is not installed, or will not begin.
        """
        check_tracker(name)
        self._name, self._is_open = name, True
        try:
            self._client = _CLIENTS[name](importlib.import_module(name))
            known = {key: value for key, value in settings.items() if value is not None}
            with _talking_aside():
                self._client.begin(project, run, known)
        except Exception as error:  # each tracker has errors of its own
            told = " ".join(str(error).split())[:300]
            raise ValueError(
                f"track {name!r} does not begin: {told}; mend that, or leave it out"
            ) from error

    def add_scalars(self, scalars: Mapping[str, float], round: int) -> None:
        """One point for each tag that has a finite value."""
        finite = {tag: float(value) for tag, value in scalars.items() if math.isfinite(value)}
        if finite:
            self._try(lambda: self._client.log(finite, round))

    def close(self) -> None:
        """Close the run."""
        self._try(self._client.finish)
        self._is_open = False

    def _try(self, call: Callable[[], None]) -> None:
        if not self._is_open:
            return
        try:
            with _talking_aside():
                call()
        except Exception as error:  # results are in the run folder; these are copies
            self._is_open = False
            told = " ".join(str(error).split())[:300]
            _logger.warning("%s gets nothing more of this run: %s", self._name, told)
