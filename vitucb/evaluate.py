"""Old name of `vitucb.evaluation.evaluate`, for one release."""

from vitucb.evaluation.evaluate import *  # noqa: F403
