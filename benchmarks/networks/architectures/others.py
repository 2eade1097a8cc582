"""Relatives of other kinds: two towers at once, sound, states, PyTorch's own layers, video, graphs."""

from __future__ import annotations

from benchmarks.networks.architectures.architecture import Architecture
from benchmarks.networks.architectures.builders import from_config, local, narrowed
from benchmarks.networks.architectures.configurations import SAMPLES, SPEECH, WAVE
from benchmarks.networks.architectures.inputs import (
    GRAPH_NODES,
    TEXT,
    Input,
    ids,
    nodes_of_a_graph,
    noise,
    patches,
    tokens,
)
from benchmarks.networks.architectures.modules import M5, Attention, Encoder, MessagePassing, Recurrent
from benchmarks.networks.architectures.sizes import Depth, Vocabulary, Width

OTHERS: dict[str, Architecture] = {
    "clip": Architecture(
        "CLIP ViT-B/32",
        from_config(
            "CLIPModel",
            "CLIPConfig",
            text_config={
                "hidden_size": Width(512),
                "intermediate_size": Width(2048),
                "num_hidden_layers": Depth(12),
                "vocab_size": Vocabulary(49408),
                "eos_token_id": 198,
                "bos_token_id": 197,
            },
            vision_config={
                "hidden_size": Width(768),
                "intermediate_size": Width(3072),
                "num_hidden_layers": Depth(12),
                "image_size": 64,
                "patch_size": 32,
            },
            projection_dim=Width(512),
        ),
        {"input_ids": Input(tokens, ("texts", "sequence")), "pixel_values": Input(patches, ("batch", 3, 64, 64))},
        sizes=TEXT | {"texts": (6, 5, 7, 8)},
        longest=77,
    ),
    "hubert": Architecture(
        "HuBERT base",
        from_config(
            "HubertForCTC",
            "HubertConfig",
            **SPEECH
            | {
                "hidden_size": Width(768),
                "intermediate_size": Width(3072),
                "num_hidden_layers": Depth(12),
                "num_attention_heads": 12,
            },
        ),
        WAVE,
        sizes=SAMPLES,
    ),
    "mamba2": Architecture(
        "Mamba-2 130M",
        from_config(
            "Mamba2ForCausalLM",
            "Mamba2Config",
            hidden_size=Width(768),
            num_hidden_layers=Depth(24),
            head_dim=Width(64),
            num_heads=24,
            state_size=Width(128),
            n_groups=1,
            chunk_size=Width(128),  # 256 as published
            vocab_size=Vocabulary(50288),
            use_cache=False,
        ),
        ids(32),
        composite="cp-lrp",  # the selection gates, and gates are held fixed
    ),
    "lstm": Architecture(
        "nn.LSTM", local(Recurrent, kind="LSTM", size=Width(128)), {"x": Input(noise, ("batch", 12, 8))}
    ),
    "gru": Architecture("nn.GRU", local(Recurrent, kind="GRU", size=Width(128)), {"x": Input(noise, ("batch", 12, 8))}),
    "multihead_attention": Architecture(
        "nn.MultiheadAttention",
        local(Attention, size=Width(256)),
        {"x": Input(noise, ("batch", "sequence", 32))},
        sizes=TEXT,
    ),
    "transformer_encoder": Architecture(
        "nn.TransformerEncoder",
        local(Encoder, size=Width(256), layers=Depth(6)),
        {"x": Input(noise, ("batch", "sequence", 32))},
        sizes=TEXT,
    ),
    "conv1d_audio": Architecture(
        "M5 (1-D convolutions)",
        local(M5, base=Width(128)),
        {"x": Input(noise, ("batch", 1, 4000))},
        "epsilon-plus",
        calibrated=True,
    ),
    "conv3d_video": Architecture(
        "R3D-18 (3-D convolutions)",
        narrowed("torchvision.models.video:r3d_18"),
        {"x": Input(patches, ("batch", 3, 8, 32, 32))},
        "epsilon-plus",
        calibrated=True,
    ),
    "graph": Architecture(
        "Graph layers (index_add)",
        local(MessagePassing, size=16),
        {
            "x": Input(noise, ("batch", GRAPH_NODES, 16)),
            "source": Input(nodes_of_a_graph, ("edges",)),
            "destination": Input(nodes_of_a_graph, ("edges",)),
        },
        "epsilon",
        width=1,
        sizes={"edges": (14, 9, 12, 20)},
    ),
}
