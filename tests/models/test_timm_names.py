from __future__ import annotations

import pytest
import timm

from vitucb.assets import EMBEDDED_BACKBONES, EMBEDDED_DEPTHS
from vitucb.models.backbone import create_backbone
from vitucb.models.timm_names import check_architecture_name


def test_every_name_that_timm_knows_is_let_through() -> None:
    for name in [*timm.list_models()[::50], *timm.list_pretrained()[::100], *EMBEDDED_BACKBONES]:
        check_architecture_name(name)
    for timm_name, _ in EMBEDDED_BACKBONES.values():
        check_architecture_name(timm_name)


@pytest.mark.parametrize("name", ["local-dir:folder", "my_backbones:vit_mine", "hf-hub:a/b"])
def test_names_from_elsewhere_are_let_through(name: str) -> None:
    check_architecture_name(name)


@pytest.mark.parametrize("name", ["vit_smal_patch16_224", "vit_smal_patch16_224.augreg", "vitucb"])
def test_a_name_that_is_nowhere_in_timm_is_refused_as_by_the_backbone(name: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown backbone '{name}'; nearest: ") as early:
        check_architecture_name(name)
    with pytest.raises(ValueError, match="unknown backbone") as late:
        create_backbone(name)
    assert str(early.value) == str(late.value)


def test_depths_of_the_embedded_backbones_are_theirs() -> None:
    assert {name: len(create_backbone(name).blocks) for name in EMBEDDED_BACKBONES} == (  # type: ignore[arg-type]  # timm's blocks have a length
        EMBEDDED_DEPTHS
    )
