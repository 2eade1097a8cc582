"""Layers with weights: convolutions, dense layers, norms, recurrent ones, attention, look-ups."""

from __future__ import annotations

from .writing import Line, Value, alike, deep, divisors, images, maps, op, real, rows, steps, whole


@op(real, often=6)
def linear(at: Line, x: Value) -> str:
    layer = at.module(f"nn.Linear({x.shape[-1]}, {at.pick(4, 1, 3, 6)}, bias={at.pick(True, False)})")
    return f"{layer}({x})"


@op(maps, often=8)
def convolution(at: Line, x: Value) -> str:
    space, channels = x.dim - 2, x.shape[1]
    groups = at.pick(1, *divisors(channels))
    kernel = at.picks(space, 1, 2, 3)
    mode = at.pick("zeros", "zeros", "reflect", "replicate", "circular")
    padding = at.pick(0, 1, 2, kernel, "'same'", "'valid'")
    options = [f"{channels}, {groups * at.pick(1, 2, 3)}, {kernel}", f"padding={padding}", f"groups={groups}"]
    options += [f"stride={at.picks(space, 1, 2, 3)}"] if padding != "'same'" else []
    options += [f"dilation={at.picks(space, 1, 2)}", f"bias={at.pick(True, False)}", f"padding_mode='{mode}'"]
    layer = at.module(f"nn.Conv{space}d({', '.join(options)})")
    return f"{layer}({x})"


@op(maps, often=3)
def transposed_convolution(at: Line, x: Value) -> str:
    space, channels = x.dim - 2, x.shape[1]
    groups = at.pick(1, *divisors(channels))
    options = [f"{channels}, {groups * at.pick(1, 2)}, {at.picks(space, 1, 2, 3)}"]
    options += [f"stride={at.picks(space, 1, 2, 3)}", f"padding={at.picks(space, 0, 1)}", f"groups={groups}"]
    options += [f"output_padding={at.picks(space, 0, 0, 1)}", f"dilation={at.picks(space, 1, 2)}"]
    layer = at.module(f"nn.ConvTranspose{space}d({', '.join(options)})")
    return f"{layer}({x})"


@op(maps)
def convolution_as_a_function(at: Line, x: Value) -> str:
    space = x.dim - 2
    weight = at.parameter(at.pick(2, 1, 3), x.shape[1], *at.picks(space, 1, 2, 3))
    bias = at.pick("None", at.parameter(2)) if at.pick(0, 1) else "None"
    weight = at.pick(weight, f"{weight}.abs()", f"{weight} * 0.5", f"({weight} - {weight}.mean())")
    return f"F.conv{space}d({x}, {weight}, {bias}, padding={at.pick(0, 1)}, stride={at.pick(1, 2)})"


@op(maps, often=4)
def batch_norm(at: Line, x: Value) -> str:
    options = f"{x.shape[1]}, affine={at.pick(True, False)}, track_running_stats={at.pick(True, True, True, False)}"
    return f"{at.module(f'nn.BatchNorm{x.dim - 2}d({options})')}({x})"


@op(rows)
def batch_norm_of_features(at: Line, x: Value) -> str:
    return f"{at.module(f'nn.BatchNorm1d({x.shape[1]})')}({x})"


@op(real, often=3)
def layer_norm(at: Line, x: Value) -> str | None:
    if x.dim < 2:
        return None
    shape = list(x.shape[at.pick(-1, -1, 1) :])
    return f"{at.module(f'nn.LayerNorm({shape}, elementwise_affine={at.pick(True, False)})')}({x})"


@op(real)
def rms_norm(at: Line, x: Value) -> str:
    if at.pick(0, 1):
        return f"{x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + 1e-5) * {at.parameter(x.shape[-1])}"
    return f"{at.module(f'nn.RMSNorm({x.shape[-1]})')}({x})"


@op(maps)
def group_norm(at: Line, x: Value) -> str:
    return f"{at.module(f'nn.GroupNorm({at.pick(*divisors(x.shape[1]))}, {x.shape[1]})')}({x})"


@op(maps)
def instance_norm(at: Line, x: Value) -> str:
    options = f"{x.shape[1]}, affine={at.pick(False, True)}, track_running_stats={at.pick(False, True)}"
    return f"{at.module(f'nn.InstanceNorm{x.dim - 2}d({options})')}({x})"


@op(images, often=1)
def local_response_norm(at: Line, x: Value) -> str:
    return f"F.local_response_norm({x}, {at.pick(2, 3)})"


@op(rows)
def cell(at: Line, x: Value) -> str:
    kind, size = at.pick("RNN", "GRU", "LSTM"), at.pick(3, 2)
    state = f"{at.module(f'nn.{kind}Cell({x.shape[1]}, {size})')}({x})"
    return f"{state}[{at.pick(0, 1)}]" if kind == "LSTM" else state


@op(steps, often=3)
def recurrent(at: Line, x: Value) -> str:
    kind = at.pick("RNN", "GRU", "LSTM")
    first = at.pick(True, True, False)
    options = f"{x.shape[2]}, {at.pick(3, 2)}, num_layers={at.pick(1, 2)}, batch_first={first}"
    options += f", bidirectional={at.pick(False, True)}, bias={at.pick(True, False)}"
    call = f"{at.module(f'nn.{kind}({options})')}({x})"
    if at.pick(0, 0, 1):
        return f"{call}[1][0].transpose(0, 1)" if kind == "LSTM" else f"{call}[1].transpose(0, 1)"
    return f"{call}[0]"


@op(steps, often=2)
def multihead_attention(at: Line, x: Value) -> str:
    heads = at.pick(*divisors(x.shape[2]))
    layer = at.module(f"nn.MultiheadAttention({x.shape[2]}, {heads}, batch_first={at.pick(True, False)})")
    return f"{layer}({x}, {x}, {x}, need_weights={at.pick(False, True)})[0]"


@op(steps)
def transformer_layer(at: Line, x: Value) -> str:
    heads = at.pick(*divisors(x.shape[2]))
    options = f"{x.shape[2]}, {heads}, dim_feedforward=5, batch_first=True, norm_first={at.pick(True, False)}"
    options += f", activation='{at.pick('relu', 'gelu')}'"
    layer = at.module(f"nn.TransformerEncoderLayer({options})")
    if at.pick(0, 1):
        layer = at.module(f"nn.TransformerEncoder({layer}, {at.pick(1, 2)}, enable_nested_tensor=False)")
    return f"{layer}({x})"


@op(steps, often=3)
def attention_written_out(at: Line, x: Value) -> str:
    size = x.shape[2]
    heads = at.pick(*divisors(size))
    at.first(f"q, k, v = {at.module(f'nn.Linear({size}, {3 * size})')}({x}).split({size}, 2)")
    at.first(f"B, T, C = {x}.shape")
    at.first(f"q, k, v = (t.view(B, T, {heads}, C // {heads}).transpose(1, 2) for t in (q, k, v))")
    if at.pick(0, 1):
        at.first(f"w = q @ k.transpose(-2, -1) / {max(size // heads, 1)} ** 0.5")
        if at.pick(0, 1):
            at.first("w = w.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float('-inf'))")
        at.first("a = w.softmax(-1) @ v")
    else:
        at.first(f"a = F.scaled_dot_product_attention(q, k, v, is_causal={at.pick(False, True)})")
    return f"a.transpose(1, 2).{at.pick('contiguous().view', 'reshape')}(B, T, C)"


@op(steps, alike)
def cross_attention(at: Line, x: Value, y: Value) -> str:
    return f"F.scaled_dot_product_attention({x}, {y}, {y}, scale={at.pick('None', '0.5')})"


@op(rows, alike)
def bilinear(at: Line, x: Value, y: Value) -> str:
    return f"{at.module(f'nn.Bilinear({x.shape[1]}, {y.shape[1]}, {at.pick(3, 1)})')}({x}, {y})"


@op(whole, often=8)
def embedding(at: Line, ids: Value) -> str:
    options = f"9, {at.pick(4, 3)}, padding_idx={at.pick('None', '0')}"
    return f"{at.module(f'nn.Embedding({options})')}({ids}.clamp(0, 8))"


@op(whole)
def embedding_bag(at: Line, ids: Value) -> str | None:
    bag = at.module(f"nn.EmbeddingBag(9, 4, mode='{at.pick('mean', 'sum', 'max')}')")
    return f"{bag}({ids}.clamp(0, 8))" if ids.dim == 2 else None


@op(real, alike)
def shared_layer(at: Line, x: Value, y: Value) -> str:
    layer = at.module(f"nn.Linear({x.shape[-1]}, {at.pick(3, 2)})")
    return at.pick(f"{layer}({x}) + {layer}({y})", f"torch.cat([{layer}({x}), {layer}({y})], -1)")


@op(real)
def tied_weights(at: Line, x: Value) -> str:
    layer = at.module(f"nn.Linear({x.shape[-1]}, {at.pick(3, 2)})")
    return f"F.linear(torch.tanh({layer}({x})), {layer}.weight.t())"


@op(real)
def shared_in_place_module(at: Line, x: Value) -> str:
    act = at.module(at.pick("nn.ReLU(inplace=True)", "nn.SiLU(inplace=True)", "nn.LeakyReLU(0.2, inplace=True)"))
    size = x.shape[-1]
    return f"{act}({at.module(f'nn.Linear({size}, 3)')}({act}({at.module(f'nn.Linear({size}, {size})')}({x}))))"


@op(images, often=3)
def residual_block(at: Line, x: Value) -> str:
    c, norm = x.shape[1], at.pick("nn.BatchNorm2d({})", "nn.GroupNorm(1, {})", "nn.Identity()")
    groups = at.pick(1, c)
    body = f"nn.Conv2d({c}, {c}, 3, padding=1, groups={groups}, bias=False), {norm.format(c)}, nn.ReLU(inplace=True)"
    block = at.module(f"nn.Sequential({body}, nn.Conv2d({c}, {c}, 1), {norm.format(c)})")
    if at.pick(0, 1):
        at.first(f"h = {block}({x})")
        at.first(f"h += {x}")
        return "h.relu_()"
    return f"F.relu({block}({x}) + {x})"


@op(images)
def squeeze_and_excitation(at: Line, x: Value) -> str:
    c = x.shape[1]
    gate = f"nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d({c}, 2, 1), nn.ReLU(), nn.Conv2d(2, {c}, 1))"
    return f"{x} * {at.pick('torch.sigmoid', 'F.hardsigmoid')}({at.module(gate)}({x}))"


@op(real)
def modules_in_a_loop(at: Line, x: Value) -> str:
    size = x.shape[-1]
    layers = at.module(f"nn.ModuleList(nn.Linear({size}, {size}) for _ in range({at.pick(2, 3)}))")
    at.first(f"h = {x}")
    at.first(f"for layer in {layers}:")
    at.first(f"    h = {at.pick('F.relu(layer(h))', 'h + torch.tanh(layer(h))', 'layer(h) * h')}")
    return "h"


@op(real, often=1)
def normalised_weight(at: Line, x: Value) -> str:
    kind = at.pick("weight_norm", "spectral_norm")
    return f"{at.module(f'nn.utils.parametrizations.{kind}(nn.Linear({x.shape[-1]}, 3))')}({x})"


@op(deep, often=1)
def checkpointed(at: Line, x: Value) -> str:
    layer = at.module(f"nn.Linear({x.shape[-1]}, 3)")
    return f"torch.utils.checkpoint.checkpoint({layer}, {x}, use_reentrant=False)"


@op(real)
def mixture_of_experts(at: Line, x: Value) -> str:
    size = x.shape[-1]
    gate, one, two = (at.module(f"nn.Linear({size}, {out})") for out in (2, 3, 3))
    at.first(f"g = {gate}({x}).softmax(-1)")
    if at.pick(0, 1):
        return f"(g.unsqueeze(-2) * torch.stack([{one}({x}), {two}({x})], -1)).sum(-1)"
    return f"g[..., :1] * {one}({x}) + g[..., 1:] * {two}({x})"
