"""Old name of `vitucb.serving.load`, for one release."""

from vitucb.serving.answers import *  # noqa: F403
from vitucb.serving.deployed_agent import *  # noqa: F403
from vitucb.serving.load import *  # noqa: F403
