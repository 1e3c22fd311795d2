"""Old name of `vitucb.models.backbone`, for one release."""

from vitucb.models.backbone import *  # noqa: F403
from vitucb.models.nano import ConvStem as ConvStem
from vitucb.models.nano import vit_nano_patch8_32 as vit_nano_patch8_32
from vitucb.models.preprocess import *  # noqa: F403
