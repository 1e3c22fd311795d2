"""Covariances of arm features, A = ridge I + sum_i w_i phi_i phi_i^T, behind one interface.

Importing this package imports no torch; `make_covariance` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vitucb.covariance.radius import oful_radius
from vitucb.covariance.table import COVARIANCES, DESCRIPTIONS

if TYPE_CHECKING:
    from vitucb.covariance.base import FeatureCovariance
    from vitucb.covariance.factory import make_covariance

_LAZY = {
    "FeatureCovariance": "vitucb.covariance.base",
    "make_covariance": "vitucb.covariance.factory",
}

__all__ = [
    "COVARIANCES",
    "DESCRIPTIONS",
    "FeatureCovariance",
    "make_covariance",
    "oful_radius",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vitucb.covariance' has no attribute {name!r}")
