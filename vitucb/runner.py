"""Old name of `vitucb.experiment.episode`, for one release."""

from vitucb.experiment.episode import *  # noqa: F403
