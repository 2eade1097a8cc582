"""Moving numbers about: shapes, indices, scatters, writes in place, pools and resizing, empty tensors."""

from __future__ import annotations

from .writing import Line, Value, alike, deep, images, maps, op, real, rows, steps, whole, wide

SHAPES = (
    *("{}.flatten(1)", "{}.transpose(1, -1)", "{}.unsqueeze(1)", "{}.unsqueeze(-1)", "{}.flip(-1)", "{}.roll(1, -1)"),
    *("{}.reshape({}.shape[0], -1)", "{}.view({}.size(0), -1)", "{}.squeeze()", "{}.repeat(1, *[2] * ({}.dim() - 1))"),
    *("{}.repeat_interleave(2, -1)", "{}.movedim(-1, 1)", "{}.tile(2)", "{}.unsqueeze(1).expand(-1, 3, *{}.shape[1:])"),
    *(
        "{}.tril()",
        "{}.triu(1)",
        "{}.mT if {}.dim() > 2 else {}",
        "{}.broadcast_to({}.shape)",
        "{}.diagonal(0, -2, -1)",
    ),
    *("torch.diag_embed({})", "{}.rot90(1, (-2, -1))", "{}.swapaxes(1, -1).contiguous()", "{}.unflatten(-1, (-1, 1))"),
    *("{}.permute(0, *range({}.dim() - 1, 0, -1))", "{}.T if {}.dim() == 2 else {}.flatten(0, 1)", "{}.ravel()[None]"),
    *(
        "{}.as_strided({}.shape, {}.stride())",
        "torch.atleast_3d({})",
        "{}.swapdims(0, 1)",
        "{}.reshape(-1, {}.shape[-1])",
    ),
)
PIECES = (
    *("{}[:, 1:]", "{}[..., ::2]", "{}[:, -1]", "{}[..., :-1]", "{}[:, 0]", "{}[..., None]", "{}[:, None, ..., :2]"),
    *("{}.chunk(2, -1)[0]", "{}.chunk(2, -1)[-1]", "{}.split(1, 1)[0]", "{}.narrow(-1, 1, 1)", "{}.select(-1, -1)"),
    *("{}.unbind(-1)[0]", "{}.tensor_split(2, -1)[1]", "{}.unfold(-1, 2, 1)", "torch.stack({}.unbind(1), -1)"),
    *(
        "sum({}.unbind(-1))",
        "torch.cat({}.split(1, -1)[::-1], -1)",
        "{}[:, [0, -1]]",
        "{}[..., torch.tensor([1, 0, 1])]",
    ),
    *(
        "{}.index_select(-1, torch.tensor([0, 0, 1]))",
        "{}[torch.arange({}.shape[0]), 0]",
        "{}.take_along_dim({}.argsort(-1), -1)",
    ),
    *(
        "{}.topk(2, -1).values",
        "{}.sort(-1).values",
        "{}.sort(-1, descending=True)[0][..., :1]",
        "{}.gather(-1, {}.argmax(-1, keepdim=True))",
    ),
    *(
        "{}.gather(1, torch.zeros_like({}, dtype=torch.long))",
        "{}[:, torch.tensor([True] + [False] * ({}.shape[1] - 1))]",
    ),
    *(
        "{}[{}[:, 0].argsort()]" if False else "{}.msort()",
        "torch.combinations({}.flatten()[:3])",
        "{}[-1:]",
        "{}.flip(0)",
    ),
)
PADS = (
    *("F.pad({}, (1, 0))", "F.pad({}, (1, 2), value=0.5)", "F.pad({}, (-1, 1))", "F.pad({}, (1, 1), 'replicate')"),
    *("F.pad({}, (1, 1), 'reflect')", "F.pad({}, (1, 0), 'circular')", "F.pad({}, (0, 1, 1, 0))"),
)
WRITES = (
    *("y[:, 0] = 0", "y[..., 1:] = {}[..., :-1]", "y[..., 0] += 1", "y[:, :1] *= 2", "y.mul_(0.5)", "y.add_({})"),
    *("y[{} > 0] = 0.1", "y[..., -1] = {}.mean(-1)", "y[0] = {}[-1]", "y.index_fill_(-1, torch.tensor([0]), 0.3)"),
    *("y[torch.arange({}.shape[0]), 0] = 1.0", "y.index_add_(-1, torch.tensor([1]), {}[..., :1])", "y.copy_({} * 2)"),
    *(
        "y.clamp_(-0.5, 0.5)",
        "y.masked_fill_({} < 0, 0)",
        "y[..., ::2] = 1",
        "y.fill_diagonal_(0) if y.dim() == 2 else y",
    ),
    *(
        "y.transpose(-1, -2).mul_(2)",
        "y[:, 0].tanh_()",
        "y.view(-1)[0] = 2.0",
        "y.index_put_((torch.tensor([0]),), {}[:1] * 2)",
    ),
    *("y.scatter_(-1, {}.argmax(-1, keepdim=True), 0.0)", "y.relu_()", "torch.sigmoid_(y)", "y.zero_().add_({})"),
)
POOLS = (
    *(
        "nn.MaxPool{}d(2)",
        "nn.AvgPool{}d(2)",
        "nn.MaxPool{}d(3, 2, 1)",
        "nn.AvgPool{}d(3, 1, 1, count_include_pad=False)",
    ),
    *("nn.MaxPool{}d(2, 2, ceil_mode=True)", "nn.AvgPool{}d(2, 2, ceil_mode=True)", "nn.AdaptiveAvgPool{}d(1)"),
    *(
        "nn.AdaptiveAvgPool{}d(2)",
        "nn.AdaptiveMaxPool{}d(2)",
        "nn.AdaptiveAvgPool{}d(3)",
        "nn.MaxPool{}d(2, 1, dilation=2)",
    ),
    *("nn.LPPool{}d(2, 2)", "nn.MaxPool{}d(3, 1, 1)", "nn.AvgPool{}d(2, 1)", "nn.AdaptiveMaxPool{}d(1)"),
)
RESIZES = (
    *(
        "scale_factor=2, mode='nearest'",
        "scale_factor=2, mode='bilinear'",
        "size=(3, 5), mode='bilinear', align_corners=True",
    ),
    *("scale_factor=1.5, mode='bicubic'", "size=(2, 2), mode='area'", "size=(5, 4), mode='nearest-exact'"),
    *("size=(2, 3), mode='bilinear', antialias=True", "scale_factor=(1.7, 0.6), mode='nearest'"),
)


@op(wide, often=8)
def shape(at: Line, x: Value) -> str:
    return at.pick(*SHAPES).replace("{}", str(x))


@op(wide, often=8)
def piece(at: Line, x: Value) -> str:
    return at.pick(*PIECES).replace("{}", str(x))


@op(wide, often=3)
def padded(at: Line, x: Value) -> str:
    return at.pick(*PADS).replace("{}", str(x))


@op(wide, often=5)
def written_in_place(at: Line, x: Value) -> str:
    start = at.pick(
        "{}.clone()", "torch.zeros_like({})", "{} * 1", "torch.empty_like({}).copy_({})", "{}.new_zeros({}.shape)"
    )
    at.first(f"y = {start.replace('{}', str(x))}")
    at.first(at.pick(*WRITES).replace("{}", str(x)))
    return "y"


@op(real, often=1)
def changed_in_place(at: Line, x: Value) -> str:
    """The value itself, be it an input: whoever reads it later reads what was written."""
    return at.pick(f"F.relu({x}, inplace=True)", f"{x}.mul_(0.5)", f"{x}.add_(1)", f"{x}.clamp_(min=-0.5)")


@op(real, often=1)
def kept_in_a_buffer(at: Line, x: Value) -> str:
    seen = at.buffer(f"torch.zeros({x.shape[-1]})")
    at.first(f"{seen}.mul_(0.9).add_({x}.flatten(0, -2).mean(0) if {x}.dim() > 1 else {x})")
    return f"{x} - {seen}"


@op(real, alike, often=4)
def joined(at: Line, x: Value, y: Value) -> str:
    ways = (
        "torch.cat([{0}, {1}], -1)",
        "torch.stack([{0}, {1}], 1)",
        "torch.cat([{0}, {1}, {0}], 1)",
        "torch.cat([{0}, {1}])",
    )
    ways += ("torch.stack([{0}, {1}]).mean(0)", "torch.hstack([{0}, {1}])", "torch.stack([{0}, {1}], -1).amax(-1)")
    return at.pick(*ways).format(x, y)


@op(wide, alike, often=3)
def written_from_another(at: Line, x: Value, y: Value) -> str:
    at.first(f"y = {x}.clone()")
    ways = (
        "y[..., :1] = {1}[..., :1]",
        "y[..., 1:] += {1}[..., 1:]",
        "y[:, 0] = {1}[:, -1]",
        "y[{1} > 0] = 0.0",
        "y *= {1}",
    )
    ways += (
        "y = torch.empty_like({0}); y[..., :1] = {1}[..., :1]; y[..., 1:] = {0}[..., 1:]",
        "y.sub_({1}, alpha=0.5)",
    )
    ways += ("y = y.slice_scatter({1}[..., :1], -1, 0, 1)", "y = y.select_scatter({1}[..., 0], -1, 1)")
    at.first(at.pick(*ways).format(x, y))
    return "y"


@op(real, whole, often=5)
def gathered(at: Line, x: Value, ids: Value) -> str | None:
    if x.dim < 2 or ids.dim > 2:
        return None
    size = x.shape[1]
    ways = (f"{x}[:, {ids} % {size}]", f"{x}.index_select(1, {ids}.flatten() % {size})", f"{x}[{ids} % {x}.shape[0]]")
    ways += (f"{x}[torch.arange({x}.shape[0]), {ids}.flatten()[:{x}.shape[0]] % {size}]",)
    if ids.dim == x.dim:
        ways += (f"{x}.gather(1, {ids} % {size})",)
    return at.pick(*ways)


@op(rows, whole, often=3)
def scattered(at: Line, x: Value, ids: Value) -> str | None:
    if ids.dim != 2 or ids.shape[0] != x.shape[0]:
        return None
    at.first(f"i = {ids}[:, 0] % 3")
    zeros = f"{x}.new_zeros(3, {x}.shape[1])"
    ways = (f"{zeros}.index_add(0, i, {x})", f"{zeros}.scatter_add(0, i[:, None].expand_as({x}), {x})")
    ways += tuple(
        f"{zeros}.scatter_reduce(0, i[:, None].expand_as({x}), {x}, '{how}', include_self={include})"
        for how, include in (("sum", True), ("amax", False), ("mean", False), ("prod", True), ("amin", True))
    )
    ways += (f"{zeros}.index_put((i,), {x}, accumulate=True)", f"{zeros}.index_copy(0, torch.arange(2), {x}[:2])")
    return at.pick(*ways)


@op(maps, often=5)
def pool(at: Line, x: Value) -> str:
    return f"{at.module(at.pick(*POOLS).replace('{}', str(x.dim - 2)))}({x})"


@op(images)
def pooled_and_back(at: Line, x: Value) -> str:
    at.first(f"y, i = F.max_pool2d({x}, 2, return_indices=True)")
    return at.pick("F.max_unpool2d(y, i, 2)", "y * 2")


@op(images, often=3)
def resized(at: Line, x: Value) -> str:
    return f"F.interpolate({x}, {at.pick(*RESIZES)})"


@op(images)
def shuffled(at: Line, x: Value) -> str:
    ways = ("F.pixel_unshuffle({0}, 2)", "F.pixel_shuffle({0}, 2)", "F.channel_shuffle({0}, 2)", "F.unfold({0}, 2)")
    ways += ("F.unfold({0}, 2, stride=2).transpose(1, 2)", "F.fold(F.unfold({0}, 2), {0}.shape[-2:], 2)")
    return at.pick(*ways).format(x)


@op(images, often=1)
def sampled(at: Line, x: Value) -> str:
    at.first(f"g = {x}.new_zeros({x}.shape[0], 3, 3, 2) + torch.linspace(-0.9, 0.8, 3)[:, None].to({x}.dtype)")
    if at.pick(0, 1):
        at.first(f"t = torch.tanh({x}.mean((1, 2, 3)))[:, None, None]")
        at.first(
            f"g = F.affine_grid(torch.eye(2, 3, dtype={x}.dtype) + 0.1 * t, [{x}.shape[0], {x.shape[1]}, 3, 3], False)"
        )
    mode, padding = at.pick("bilinear", "nearest", "bicubic"), at.pick("zeros", "border", "reflection")
    return f"F.grid_sample({x}, g, mode='{mode}', padding_mode='{padding}', align_corners=False)"


@op(steps, often=1)
def windows_of_patches(at: Line, x: Value) -> str:
    return at.pick(f"{x}.unfold(1, 2, 2)", f"{x}.unfold(1, 2, 1).mean(-1)", f"{x}.unfold(2, 2, 1).flatten(2)")


@op(real, often=2)
def empty(at: Line, x: Value) -> str:
    ways = (
        "torch.cat([{0}, {0}[..., :0]], -1)",
        "{0} + {0}.new_zeros(0).sum()",
        "torch.cat([{0}.new_zeros(0, *{0}.shape[1:]), {0}])",
    )
    ways += ("{0} * {0}[..., :0].sum(-1, keepdim=True)", "F.pad({0}[..., :0], ({0}.shape[-1], 0), value=1.0) + {0}")
    return at.pick(*ways).format(x)


@op(deep, often=1)
def a_number_without_dims(at: Line, x: Value) -> str:
    return at.pick(
        f"{x} * {x}.flatten()[0]",
        f"{x} + {at.parameter()}",
        f"{x} * {x}[0, 0].sum()",
        f"{x}.where({x}.sum() > 0, {x} * 2)",
    )
