"""Layers and models of other libraries: medical images, segmentation, graphs, audio, tables, time series, flows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .example import Example, Library, NotBuilt

Make = Callable[[], tuple[Any, ...]]


def _attribute(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}: {error}") from error


class Reads(nn.Module):
    """A model, called another way, whose result is flattened into three logits."""

    def __init__(self, inner: nn.Module, make: Make, call: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.inner, self.call = inner.eval(), call
        with torch.no_grad():
            size = self._values(*make()).shape[1]
        self.head = nn.Linear(size, 3)

    def _values(self, *inputs: Any) -> Tensor:
        result = self.inner(*inputs) if self.call is None else self.call(self.inner, *inputs)
        while isinstance(result, (tuple, list)):
            result = result[0]
        result = result if isinstance(result, Tensor) else next(iter(result.values()))
        return result.flatten(1) if result.dim() > 1 else result[:, None]

    def forward(self, a: Any, b: Any = None, c: Any = None) -> Tensor:
        return self.head(self._values(*(x for x in (a, b, c) if x is not None)))


Row = tuple[Callable[[Any], Any], Make] | tuple[Callable[[Any], Any], Make, Callable[..., Any]]
image: Make = lambda: (torch.randn(2, 3, 64, 64),)  # noqa: E731
grey64: Make = lambda: (torch.randn(2, 1, 64, 64),)  # noqa: E731
grey: Make = lambda: (torch.randn(2, 1, 32, 32),)  # noqa: E731
volume: Make = lambda: (torch.randn(1, 1, 32, 32, 32),)  # noqa: E731
tokens: Make = lambda: (torch.randint(0, 99, (2, 16)),)  # noqa: E731
wave: Make = lambda: (torch.randn(2, 1, 3200),)  # noqa: E731
columns: Make = lambda: (torch.randn(3, 6),)  # noqa: E731
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])
graph: Make = lambda: (torch.randn(6, 4), EDGES)  # noqa: E731
valued: Make = lambda: (torch.randn(6, 4), EDGES, torch.randn(8, 3))  # noqa: E731
two: Make = lambda: (torch.randn(3, 6), torch.randn(3, 6))  # noqa: E731


def _rows(package: str, entries: dict[str, Row]) -> Library:
    def build(name: str) -> Example:
        build_it, make, *call = entries[name]
        try:
            torch.manual_seed(0)
            inner = build_it(_attribute(name if "." in name else f"{package}.{name}"))
            model = Reads(inner, make, *call).eval()
        except NotBuilt:
            raise
        except Exception as error:
            raise NotBuilt(f"{type(error).__name__}: {str(error)[:200]}") from error
        return Example(model, make, "epsilon", 0, name)

    return Library(package, lambda: list(entries), build)


MONAI = _rows(
    "monai.networks.nets",
    {
        "UNet": (lambda c: c(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=1), grey),
        "BasicUNet": (lambda c: c(2, 1, 2, (4, 4, 8, 8, 16, 4)), grey),
        "AttentionUnet": (lambda c: c(2, 1, 2, (4, 8, 16), (2, 2)), grey),
        "DynUNet": (lambda c: c(2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2)), grey),
        "SegResNet": (lambda c: c(2, 8, 1, 2), grey),
        "VNet": (lambda c: c(3, 1, 2), volume),
        "UNETR": (lambda c: c(1, 2, (32, 32, 32), 4, 32, 64, 4), volume),
        "SwinUNETR": (lambda c: c(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2), grey64),
        "DenseNet121": (lambda c: c(2, 1, 2), grey),
        "EfficientNetBN": (
            lambda c: c("efficientnet-b0", spatial_dims=2, in_channels=1, num_classes=2, pretrained=False),
            grey,
        ),
        "SENet154": (
            lambda c: c(spatial_dims=2, in_channels=1, num_classes=2, layers=(1, 1, 1, 1), pretrained=False),
            grey,
        ),
        "ResNet": (lambda c: c("basic", [1, 1, 1, 1], [8, 8, 16, 16], spatial_dims=2, n_input_channels=1), grey),
        "ViT": (lambda c: c(1, (32, 32), (8, 8), 32, 64, 2, 4, spatial_dims=2, classification=True), grey),
        "HighResNet": (lambda c: c(2, 1, 2), grey),
        "AutoEncoder": (lambda c: c(2, 1, 1, (4, 8), (2, 2)), grey),
        "FlexibleUNet": (lambda c: c(3, 2, "efficientnet-b0"), image),
        "Regressor": (lambda c: c((1, 32, 32), 2, (4, 8), (2, 2)), grey),
        "SegResNetVAE": (lambda c: c((32, 32), spatial_dims=2, init_filters=8, in_channels=1), grey),
        "DiNTS": (
            lambda c: c(_attribute("monai.networks.nets.TopologySearch")(num_blocks=4, num_depths=2), 1, 2),
            volume,
        ),
        "MedNeXt": (lambda c: c(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2), grey),
    },
)
SEGMENTATION = _rows(
    "segmentation_models_pytorch",
    {
        name: (lambda c: c("resnet18", encoder_weights=None, classes=2), image)
        for name in (
            "Unet",
            "UnetPlusPlus",
            "MAnet",
            "Linknet",
            "FPN",
            "PSPNet",
            "DeepLabV3",
            "DeepLabV3Plus",
            "UPerNet",
            "Segformer",
        )
    },
)
GRAPHS = _rows(
    "torch_geometric.nn",
    {
        **{
            n: (lambda c: c(4, 5), graph)
            for n in ("GCNConv", "SAGEConv", "GATConv", "GATv2Conv", "TransformerConv", "GraphConv")
        },
        **{
            n: (lambda c: c(4, 5), graph)
            for n in ("TAGConv", "ARMAConv", "SGConv", "LEConv", "ClusterGCNConv", "FeaStConv")
        },
        **{
            n: (lambda c: c(4, 5), graph)
            for n in ("FiLMConv", "GeneralConv", "SuperGATConv", "MFConv", "ResGatedGraphConv")
        },
        "ChebConv": (lambda c: c(4, 5, 2), graph),
        "GINConv": (lambda c: c(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5))), graph),
        "GINEConv": (lambda c: c(nn.Linear(4, 5), edge_dim=3), valued),
        "EdgeConv": (lambda c: c(nn.Sequential(nn.Linear(8, 5), nn.ReLU())), graph),
        "APPNP": (lambda c: c(2, 0.1), graph),
        "GatedGraphConv": (lambda c: c(5, 2), graph),
        "PNAConv": (lambda c: c(4, 5, ["mean", "max"], ["identity"], torch.tensor([0, 2, 4])), graph),
        "GENConv": (lambda c: c(4, 5), graph),
        "NNConv": (lambda c: c(4, 5, nn.Linear(3, 20)), valued),
        "CGConv": (lambda c: c(4, 3), valued),
        "AGNNConv": (lambda c: c(), graph),
        "GCN2Conv": (lambda c: c(4, 0.1), graph, lambda m, x, e: m(x, x, e)),
        "HypergraphConv": (lambda c: c(4, 5), graph),
        "torch_geometric.nn.models.GCN": (lambda c: c(4, 5, 2, 3), graph),
        "torch_geometric.nn.models.GAT": (lambda c: c(4, 6, 2, 3), graph),
        "torch_geometric.nn.models.GraphSAGE": (lambda c: c(4, 5, 2, 3), graph),
        "torch_geometric.nn.models.GIN": (lambda c: c(4, 5, 2, 3), graph),
        "torch_geometric.nn.models.PNA": (
            lambda c: c(4, 5, 2, 3, aggregators=["mean", "max"], scalers=["identity"], deg=torch.tensor([0, 2, 4])),
            graph,
        ),
        "torch_geometric.nn.models.DeepGCNLayer": (
            lambda c: c(_attribute("torch_geometric.nn.GENConv")(4, 4), nn.LayerNorm(4), nn.ReLU()),
            graph,
        ),
        "torch_geometric.nn.aggr.SoftmaxAggregation": (
            lambda c: c(),
            graph,
            lambda m, x, e: m(x, torch.tensor([0, 0, 1, 1, 2, 2])),
        ),
    },
)
AUDIO = _rows(
    "torchaudio",
    {
        "torchaudio.models.Conformer": (
            lambda c: c(8, 2, 16, 1, 3),
            lambda: (torch.randn(2, 10, 8),),
            lambda m, x: m(x, torch.tensor([10, 10])),
        ),
        "torchaudio.models.ConvTasNet": (
            lambda c: c(enc_num_feats=8, msk_num_feats=8, msk_num_hidden_feats=8, msk_num_layers=2, msk_num_stacks=1),
            wave,
        ),
        "torchaudio.models.DeepSpeech": (lambda c: c(8, 16, 5), lambda: (torch.randn(2, 1, 10, 8),)),
        "torchaudio.models.Wav2Letter": (lambda c: c(5, "waveform"), wave),
        "torchaudio.models.HDemucs": (lambda c: c(["a"], audio_channels=1, channels=4, nfft=256, depth=3), wave),
        "torchaudio.transforms.MelSpectrogram": (lambda c: c(8000, 128, n_mels=8), wave),
        "torchaudio.transforms.Spectrogram": (lambda c: c(128), wave),
        "torchaudio.transforms.MFCC": (lambda c: c(8000, 8, melkwargs={"n_fft": 128, "n_mels": 16}), wave),
        "torchaudio.transforms.Resample": (lambda c: c(8000, 4000), wave),
    },
)
VISION_TRANSFORMERS = _rows(
    "vit_pytorch",
    {
        "vit_pytorch.ViT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.SimpleViT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.deepvit.DeepViT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.cait.CaiT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, cls_depth=1, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.t2t.T2TViT": (
            lambda c: c(dim=32, image_size=64, depth=2, heads=2, mlp_dim=64, num_classes=5),
            image,
        ),
        "vit_pytorch.cct.CCT": (
            lambda c: c(img_size=(64, 64), embedding_dim=32, num_layers=2, num_heads=2, num_classes=5),
            image,
        ),
        "vit_pytorch.levit.LeViT": (
            lambda c: c(image_size=64, num_classes=5, stages=2, dim=(32, 48), depth=1, heads=2, mlp_mult=2),
            image,
        ),
        "vit_pytorch.cvt.CvT": (
            lambda c: c(num_classes=5, s1_emb_dim=16, s2_emb_dim=16, s3_emb_dim=32, s3_depth=2),
            image,
        ),
        "vit_pytorch.regionvit.RegionViT": (
            lambda c: c(dim=(16, 16, 32, 32), depth=(1, 1, 1, 1), window_size=2, num_classes=5),
            image,
        ),
        "vit_pytorch.mobile_vit.MobileViT": (
            lambda c: c((64, 64), [16, 20, 24], [8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 32], 5),
            image,
        ),
        "vit_pytorch.nest.NesT": (
            lambda c: c(
                image_size=64, patch_size=4, dim=16, heads=2, num_hierarchies=3, block_repeats=(1, 1, 1), num_classes=5
            ),
            image,
        ),
        "vit_pytorch.max_vit.MaxViT": (
            lambda c: c(num_classes=5, dim=16, depth=(1, 1), dim_head=8, window_size=8),
            image,
        ),
        "vit_pytorch.xcit.XCiT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=1, cls_depth=1, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.vit_for_small_dataset.ViT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64),
            image,
        ),
        "vit_pytorch.parallel_vit.ViT": (
            lambda c: c(
                image_size=64,
                patch_size=16,
                num_classes=5,
                dim=32,
                depth=2,
                heads=2,
                mlp_dim=64,
                num_parallel_branches=2,
            ),
            image,
        ),
        "vit_pytorch.simple_vit_with_register_tokens.SimpleViT": (
            lambda c: c(image_size=64, patch_size=16, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64),
            image,
        ),
    },
)
SEQUENCES = _rows(
    "x_transformers",
    {
        "x_transformers.TransformerWrapper": (
            lambda c: c(
                num_tokens=99,
                max_seq_len=32,
                attn_layers=_attribute("x_transformers.Decoder")(dim=32, depth=2, heads=2),
            ),
            tokens,
        ),
        "x_transformers.Encoder": (
            lambda c: c(dim=16, depth=2, heads=2, rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True),
            lambda: (torch.randn(2, 6, 16),),
        ),
        "x_transformers.ContinuousTransformerWrapper": (
            lambda c: c(
                dim_in=4,
                dim_out=4,
                max_seq_len=32,
                attn_layers=_attribute("x_transformers.Encoder")(dim=16, depth=1, heads=2),
            ),
            lambda: (torch.randn(2, 6, 4),),
        ),
        "x_transformers.ViTransformerWrapper": (
            lambda c: c(
                image_size=64,
                patch_size=16,
                num_classes=5,
                attn_layers=_attribute("x_transformers.Encoder")(dim=16, depth=1, heads=2),
            ),
            image,
        ),
    },
)
TABLES = _rows(
    "tables",
    {
        "rtdl_revisiting_models.MLP": (lambda c: c(d_in=6, d_out=3, n_blocks=2, d_block=8, dropout=0.1), columns),
        "rtdl_revisiting_models.ResNet": (
            lambda c: c(
                d_in=6,
                d_out=3,
                n_blocks=2,
                d_block=8,
                d_hidden=None,
                d_hidden_multiplier=2.0,
                dropout1=0.1,
                dropout2=0.0,
            ),
            columns,
        ),
        "rtdl_revisiting_models.FTTransformer": (
            lambda c: c(
                n_cont_features=6,
                cat_cardinalities=[3, 4],
                d_out=3,
                n_blocks=2,
                d_block=16,
                attention_n_heads=4,
                attention_dropout=0.1,
                ffn_d_hidden=None,
                ffn_d_hidden_multiplier=2.0,
                ffn_dropout=0.1,
                residual_dropout=0.0,
            ),
            lambda: (torch.randn(3, 6), torch.randint(0, 3, (3, 2))),
        ),
        "pytorch_tabnet.tab_network.TabNet": (lambda c: c(6, 3, group_attention_matrix=torch.eye(6)), columns),
        "tab_transformer_pytorch.TabTransformer": (
            lambda c: c(categories=(3, 4), num_continuous=6, dim=8, dim_out=3, depth=1, heads=2),
            lambda: (torch.randint(0, 3, (3, 2)), torch.randn(3, 6)),
        ),
        "tab_transformer_pytorch.FTTransformer": (
            lambda c: c(categories=(3, 4), num_continuous=6, dim=8, dim_out=3, depth=1, heads=2),
            lambda: (torch.randint(0, 3, (3, 2)), torch.randn(3, 6)),
        ),
    },
)
SERIES = _rows(
    "series",
    {
        "iTransformer.iTransformer": (
            lambda c: c(num_variates=4, lookback_len=16, dim=16, depth=1, heads=2, dim_head=8, pred_length=4),
            lambda: (torch.randn(2, 16, 4),),
        ),
        "pytorch_tcn.TCN": (lambda c: c(4, [8, 8]), lambda: (torch.randn(2, 4, 16),)),
    },
)
FLOWS = _rows(
    "flows",
    {
        **{
            f"zuko.flows.{n}": (
                lambda c: c(6, transforms=1, hidden_features=(8,)),
                columns,
                lambda m, x: m().log_prob(x),
            )
            for n in ("NSF", "MAF", "NICE")
        },
        **{
            f"zuko.flows.{n}": (lambda c: c(6), columns, lambda m, x: m().log_prob(x))
            for n in ("GMM", "RealNVP", "SOSPF", "BPF")
        },
        "nflows.transforms.MaskedAffineAutoregressiveTransform": (lambda c: c(6, 8), columns),
        "nflows.transforms.LULinear": (lambda c: c(6), columns),
        "nflows.transforms.RandomPermutation": (lambda c: c(6), columns),
    },
)
DIFFUSERS = _rows(
    "diffusers",
    {
        "UNet2DModel": (
            lambda c: c(
                sample_size=16,
                in_channels=3,
                out_channels=3,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                attention_head_dim=8,
            ),
            lambda: (torch.randn(2, 3, 16, 16),),
            lambda m, x: m(x, torch.tensor([1, 5])).sample,
        ),
        "AutoencoderKL": (
            lambda c: c(
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
            ),
            lambda: (torch.randn(2, 3, 16, 16),),
            lambda m, x: m(x).sample,
        ),
        "VQModel": (
            lambda c: c(
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
            ),
            lambda: (torch.randn(2, 3, 16, 16),),
            lambda m, x: m(x).sample,
        ),
        "DiTTransformer2DModel": (
            lambda c: c(
                num_attention_heads=2,
                attention_head_dim=8,
                in_channels=3,
                out_channels=3,
                num_layers=1,
                sample_size=16,
                norm_num_groups=4,
            ),
            lambda: (torch.randn(2, 3, 16, 16),),
            lambda m, x: m(x, torch.tensor([1, 5]), torch.tensor([1, 2])).sample,
        ),
    },
)
OTHERS = (MONAI, SEGMENTATION, GRAPHS, AUDIO, VISION_TRANSFORMERS, SEQUENCES, TABLES, SERIES, FLOWS, DIFFUSERS)
