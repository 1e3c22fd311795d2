"""Settings of an experiment: frozen dataclasses, and a YAML file as partial override.

Defaults live here and nowhere else. Names of optimizers, covariances and so on are checked
against their tables before anything heavy is imported.
"""

from __future__ import annotations

from vitucb.config.agent import (
    AgentConfig,
    CovarianceConfig,
    OptimizerConfig,
    PolicyConfig,
    TrainingConfig,
)
from vitucb.config.checks import FREE_OPTIONS
from vitucb.config.env import (
    ArmSubsetConfig,
    DataConfig,
    DelayConfig,
    DriftConfig,
    EnvConfig,
    SlateConfig,
)
from vitucb.config.files import differences, load_config, save_config
from vitucb.config.lora import LoRAConfig
from vitucb.config.override import checked, flatten, override, override_key, override_keys, to_dict
from vitucb.config.run import ParallelConfig, RunConfig

__all__ = [
    "FREE_OPTIONS",
    "AgentConfig",
    "ArmSubsetConfig",
    "CovarianceConfig",
    "DataConfig",
    "DelayConfig",
    "DriftConfig",
    "EnvConfig",
    "LoRAConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PolicyConfig",
    "RunConfig",
    "SlateConfig",
    "TrainingConfig",
    "checked",
    "differences",
    "flatten",
    "load_config",
    "override",
    "override_key",
    "override_keys",
    "save_config",
    "to_dict",
]
