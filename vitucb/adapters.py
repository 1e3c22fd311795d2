"""Old name of `vitucb.models.lora`, for one release."""

from vitucb.models.lora import *  # noqa: F403
