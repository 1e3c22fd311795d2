"""Old name of `vitucb.models.backbone`, for one release."""

from vitucb.models.backbone import *  # noqa: F403
from vitucb.models.preprocess import *  # noqa: F403
