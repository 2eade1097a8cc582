"""Configurations of transformers made tiny, whatever the type: sizes by the names that their arguments bear."""

from __future__ import annotations

import inspect
import re
from typing import Any

SIZES = (
    (r"(^|_)(vocab_size|text_vocab_size|codebook_size)$", 99),
    (r"(num|n)_?(hidden_|encoder_|decoder_)?(layers?|blocks)$|^(encoder|decoder)_layers$|_layers$|^depth$", 2),
    (r"(num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num)$", 2),
    (r"(attention_heads|_heads|^n_head|^num_head|^heads|^nhead)$", 4),
    (r"^(qk_rope_head_dim|qk_nope_head_dim|v_head_dim)$", 8),
    (r"(head_dim|^d_kv|^kv_channels|attention_head_size)$", 8),
    (r"(kv_lora_rank|q_lora_rank|lora_rank)$", 8),
    (r"(intermediate_size|ffn_dim|^d_ff|ffn_hidden_size|^n_inner|mlp_dim|^dim_feedforward|feedforward)$", 48),
    (
        r"(hidden_size|^d_model|^n_embd|^embed_dim|embedding_size|hidden_dim|^dim|_dim|^d_embed|^emb_dim|_width|^width)$",
        32,
    ),
    (r"(num_experts_per_tok|top_k|moe_topk|experts_per_token)$", 2),
    (r"(num_.*experts|n_routed_experts|num_local_experts|moe_num_experts)$", 4),
    (r"^(n_group|topk_group|num_expert_group)$", 1),
    (r"^n_shared_experts$", 1),
    (r"(max_position_embeddings|n_positions|max_seq_len|n_ctx|max_sequence_length)$", 64),
    (r"(image_size|img_size)$", 32),
    (r"^patch_size$", 8),
    (r"(num_queries|num_query_tokens|num_latents)$", 6),
    (r"(prediction_length|context_length)$", 8),
    (r"(conv_stem_channels|stem_.*channels)$", 8),
)
"""Arguments' names, as patterns, and what they become; the first that fits."""
KEPT = re.compile(r"token_id|_eps$|dropout|_std$|theta|factor|ratio|kernel|stride|groups|window|conv_dim|type_vocab")


SHALLOW = re.compile(r"layers?$|n_layer|depth|blocks|vocab_size|position|image_size|img_size")
"""What is made small even where widths have to stay."""


def tiny(config_class: Any, narrow: bool = True, depth: int = 0) -> Any:
    """A configuration of the class, as small as its names let it be made; raises whatever the class raises.

    Args:
        config_class: of transformers.
        narrow: whether widths are made small too, or depths and vocabularies alone.
        depth: of this configuration in another one.
    """
    return config_class(**_overrides(config_class, narrow, depth))


def _overrides(config_class: Any, narrow: bool, depth: int) -> dict[str, Any]:
    default = config_class()
    found: dict[str, Any] = {}
    names = set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "__annotations__", {}))
    for name in sorted(names - {"self", "kwargs"}):
        value = getattr(default, name, None)
        small = _small(name, value) if narrow or SHALLOW.search(name) else None
        if small is not None:
            found[name] = small
    for name, sub in (getattr(config_class, "sub_configs", None) or {}).items():
        if depth < 3 and inspect.isclass(sub) and sub.__name__ != "AutoConfig" and sub is not config_class:
            found[name] = tiny(sub, narrow, depth + 1)
        elif depth < 3 and getattr(default, name, None) is not None:
            found[name] = tiny(type(getattr(default, name)), narrow, depth + 1)
    for name in list(names):
        if "token_id" in name and isinstance(getattr(default, name, None), int) and getattr(default, name) >= 90:
            found[name] = 3 + len(name) % 80
    return found


def _small(name: str, value: Any) -> Any:
    if KEPT.search(name) or isinstance(value, bool):
        return None
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    ):
        return type(value)(_list(name, list(value)))
    if not isinstance(value, int) or value is None:
        return None
    for pattern, size in SIZES:
        if re.search(pattern, name):
            return min(size, value) if value > 0 else None
    return None


def _list(name: str, values: list[int]) -> list[int]:
    """Depths become 1, widths keep their proportions and the rest stays."""
    if re.search(r"depth|num_.*layers|num_blocks|layers_per", name):
        return [1] * len(values)
    if re.search(r"hidden_sizes|embed_dims?|widths|channels|_dims$|embedding_size|dims$", name) and min(values) >= 16:
        scale = min(values) // 16
        return [max(8, value // scale // 8 * 8) for value in values]
    return values
