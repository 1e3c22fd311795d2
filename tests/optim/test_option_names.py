from __future__ import annotations

import inspect
from typing import Any

import pytest

from vitucb.optim import OPTIMIZERS
from vitucb.optim.option_names import check_option_names
from vitucb.registry import lookup

RESERVED = {"self", "params", "pairs", "lr", "other_params", "draws"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_argument_of_an_optimizer_is_known(name: str) -> None:
    parameters = inspect.signature(lookup("optimizer", name, OPTIMIZERS)).parameters.values()
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - RESERVED
    assert names
    check_option_names(name, dict.fromkeys(names))
    with pytest.raises(ValueError, match=f"optimizer '{name}' has no option 'ratoi'; options: "):
        check_option_names(name, {"ratoi": 3})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"betas": 1, "other_lr": 1, "max_step": 1, "fused": True}),
        ("sgd", {"momentum": 1, "nesterov": True}),
        ("lora-plus", {"betas": 1}),
        ("lora-plus", {"base": "sgd", "momentum": 1}),
        ("lora-plus", {"base": "my_module:Mine", "anything": 1}),
        ("rac-lora", {"inner": "sgd", "inner_options": {"momentum": 1}}),
        ("rac-lora", {"inner": "my_module:Mine", "inner_options": {"anything": 1}}),
        ("my_module:Mine", {"anything": 1}),
    ],
)
def test_options_that_are_passed_on_are_let_through(name: str, options: dict[str, Any]) -> None:
    check_option_names(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora-plus", {"base": "sgd", "betas": 1}, "'lora-plus' has no option 'betas'"),
        ("rac-lora", {"inner_options": {"betass": 1}}, "'adamw' has no option 'betass'"),
        ("cola", {"inner": "sgd", "inner_options": {"betas": 1}}, "'sgd' has no option 'betas'"),
    ],
)
def test_options_that_no_one_takes_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_option_names(name, options)
