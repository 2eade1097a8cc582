"""What several configurations share."""

from __future__ import annotations

from typing import Any

from benchmarks.networks.architectures.inputs import Input, noise
from benchmarks.networks.architectures.sizes import CLASSES, Depth, Width

TRANSFORMERS_ENCODER: dict[str, Any] = {
    "hidden_size": Width(768),
    "intermediate_size": Width(3072),
    "num_hidden_layers": Depth(12),
}
LABELS: dict[str, Any] = {"num_labels": CLASSES}
LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SIGLIP: dict[str, Any] = {
    "hidden_size": Width(1152),
    "intermediate_size": Width(4304),
    "num_hidden_layers": Depth(27),
    "num_attention_heads": 16,
}
SPEECH: dict[str, Any] = {
    "vocab_size": 32,
    "conv_dim": [Width(512)] * 7,
    "num_conv_pos_embedding_groups": 16,
    "num_hidden_layers": Depth(24),
    "num_attention_heads": 16,
    "hidden_size": Width(1024),
    "intermediate_size": Width(4096),
}
SAMPLES = {"samples": (4000, 3000, 3600, 5000)}
WAVE = {"input_values": Input(noise, ("batch", "samples"))}
