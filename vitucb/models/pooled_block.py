"""The last block of a ViT, computed only as far as its output is read.

Pooling reads one token, or the mean of all. Behind the attention of the last block tokens no longer
mix, so what the pooling does not read need not be made: with a class token, its query, projection
and MLP alone; with the mean, the last layer of the MLP is linear and takes the mean of its inputs.
Per image of n tokens that saves three quarters, or a third, of a block, forward and backward alike.
"""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PooledBlock:
    """The last block of a timm `VisionTransformer`; gives the one token that pooling makes of all.

    Attributes:
        block: The block it stands for.
    """

    def __init__(self, block: Block, *, is_mean: bool) -> None:
        """Stand for `block`.

        Args:
            block: Norms, attention and MLP, as timm has them.
            is_mean: Whether pooling takes the mean of all tokens; else the first one.
        """
        self.block, self._is_mean = block, is_mean

    def __call__(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        """The pooled output (b, 1, d) for tokens (b, n, d)."""
        b = self.block
        if self._is_mean:
            x = x + b.ls1(b.attn(b.norm1(x)))
            hidden = _mean(b.mlp.act(b.mlp.fc1(b.norm2(x))))
            return _mean(x) + b.ls2(b.mlp.fc2(hidden))  # type: ignore[no-any-return]
        x = x[:, :1] + b.ls1(_first_query(b.attn, b.norm1(x)))
        return x + b.ls2(b.mlp(b.norm2(x)))  # type: ignore[no-any-return]


def find_pooled_block(model: nn.Module) -> PooledBlock | None:
    """What stands for the last block of the timm ViT in `model`; None where its make is unknown."""
    vits = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    if len(vits) != 1 or not _is_known(vits[0]):
        return None
    block = vits[0].blocks[-1]
    is_mean = vits[0].global_pool == "avg"
    return PooledBlock(block, is_mean=is_mean) if _is_plain(block) else None


def _mean(x: Tensor) -> Tensor:
    """Mean over the tokens of x (b, n, d): (b, 1, d)."""
    # Not x.mean: its backward writes the same gradient out for every token.
    return x.sum(1, keepdim=True) / x.shape[1]


def _first_query(attention: Attention, x: Tensor) -> Tensor:
    """What attention gives for the first of the tokens x (b, n, d): (b, 1, d)."""
    count, tokens, _ = x.shape
    shape = (count, tokens, 3, attention.num_heads, attention.head_dim)
    q, k, v = attention.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)
    mixed = scaled_dot_product_attention(q, k, v, scale=attention.scale)
    return attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


def _is_known(vit: VisionTransformer) -> bool:
    """Whether pooling reads the first token, or the mean of all before any norm."""
    steps = ("forward_features", "forward_head", "pool")
    if any(getattr(type(vit), step) is not getattr(VisionTransformer, step) for step in steps):
        return False
    if vit.attn_pool is not None or vit.grad_checkpointing:
        return False
    of_all = vit.num_prefix_tokens == 0 and isinstance(vit.norm, nn.Identity)
    return vit.global_pool == "token" or (vit.global_pool == "avg" and of_all)


def _is_plain(block: Any) -> bool:
    """Whether the block is of timm's own parts, none of which chance or a hook has a say in."""
    if not (type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp):
        return False
    dropouts = (module for module in block.modules() if isinstance(module, nn.Dropout))
    left_out = (block.drop_path1, block.drop_path2, block.mlp.norm)
    return (
        all(dropout.p == 0 for dropout in dropouts)
        and all(isinstance(module, nn.Identity) for module in left_out)
        and getattr(block.attn, "gate", None) is None
        and not (block._forward_hooks or block._forward_pre_hooks)
    )
