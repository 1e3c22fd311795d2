"""Names that programs outside import: each is where it was promised to be."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "vitucb": "make_agent run deploy load_agent make_covariance create_optimizer "
    "Agent Decision HubAgent Observation Round types envs",
    "vitucb.experiment": "make_env make_agent play run",
    "vitucb.agents": "AGENTS",
    "vitucb.policies": "POLICIES make_policy draw argmax_probabilities",
    "vitucb.covariance": "FeatureCovariance make_covariance",
    "vitucb.optim": "OPTIMIZERS LoRAOptimizer create_optimizer",
    "vitucb.statistics": "regret_summary paired_difference",
    "vitucb.report": "load_runs write_report",
    "vitucb.config": "RunConfig AgentConfig EnvConfig load_config save_config",
    "vitucb.cli": "main",
}
FORWARDED = {
    "vitucb.adapters": "LoRAPair add_lora lora_pairs",
    "vitucb.backbone": "create_backbone ConvStem vit_nano_patch8_32 Preprocess preprocess_for",
    "vitucb.evaluate": "evaluate",
    "vitucb.runner": "run Episode",
    "vitucb.deployment": "DeployedAgent deploy load_agent",
}


@pytest.mark.parametrize("module", [*PUBLIC, *FORWARDED])
def test_module_has_its_public_names(module: str) -> None:
    names = (PUBLIC | FORWARDED)[module].split()
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []
