"""Maps looked up at places that are calculated, and windows as columns."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import chosen, onnx_op
from ..sizes import Sizes

GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"} | {name: name for name in ("bilinear", "nearest", "bicubic")}


@onnx_op("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Values at the places that a grid says, −1 to 1 along each axis."""
    return F.grid_sample(
        x, grid, chosen(GRID_MODES, mode, "The mode of a GridSample"), padding_mode, bool(align_corners)
    )


@onnx_op("AffineGrid")
def affine_grid(theta: Tensor, size: Sizes, *, align_corners: int = 0) -> Tensor:
    """The grid that an affine map makes of the places of a map of this size."""
    sizes = size.list()[2:]
    axes = []
    for length in sizes:
        steps = torch.arange(length, dtype=theta.dtype)
        axes.append(steps * 2 / (length - 1) - 1 if align_corners else (2 * steps + 1) / length - 1)
    places = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack([*reversed(places), torch.ones_like(places[0])], -1)
    rows = points.reshape(1, prod(sizes), len(sizes) + 1)
    return torch.matmul(rows, theta.transpose(1, 2)).reshape(-1, *sizes, len(sizes))


@onnx_op("Col2Im")
def columns_to_image(
    x: Tensor,
    image_shape: Sizes,
    block_shape: Sizes,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Columns put back where their windows were, and added up where these overlap."""
    image, block = image_shape.list(), block_shape.list()
    rank = len(image)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    padded = [size + pads[k] + pads[k + rank] for k, size in enumerate(image)]
    counts = [(padded[k] - (block[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(rank)]
    where: Tensor = torch.zeros([], dtype=torch.int64)
    for k in range(rank):
        inside = torch.arange(block[k]) * dilations[k]
        starts = torch.arange(counts[k]) * strides[k]
        shape = [1] * (2 * rank)
        shape[k], shape[k + rank] = block[k], counts[k]
        place = inside.unsqueeze(1) + starts
        where = where * padded[k] + place.reshape(shape)
    where = where.expand([*block, *counts]).reshape(-1)
    flat = x.reshape(x.shape[0], -1, prod(block) * prod(counts))
    total = torch.zeros([*flat.shape[:2], prod(padded)], dtype=x.dtype)
    whole = total.index_add(2, where, flat).reshape(*flat.shape[:2], *padded)
    for k in range(rank):
        whole = whole.narrow(2 + k, pads[k], image[k])
    return whole


@onnx_op("RoiAlign", since=10)
def roi_align_from_corner(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Regions of maps, sampled bilinearly; pixels lie at whole numbers (opset 10)."""
    return roi_align(
        x,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@onnx_op("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Regions of maps, sampled bilinearly at points of each bin (He et al., 2017)."""
    half = coordinate_transformation_mode == "half_pixel"
    boxes = rois * spatial_scale - (0.5 if half else 0.0)
    left, top, right, bottom = boxes.unbind(1)
    wide, high = right - left, bottom - top
    if not half:
        wide, high = wide.clamp(min=1.0), high.clamp(min=1.0)
    count = sampling_ratio
    if count <= 0:
        # As many as the largest region has pixels to a bin, which is a number only where regions are known.
        need = torch.maximum(high / output_height, wide / output_width)
        count = int(torch.ceil(need).max().item())
    down = _points(top, high, output_height, count)
    across = _points(left, wide, output_width, count)
    ys, mask_y = _inside(down, x.shape[2])
    xs, mask_x = _inside(across, x.shape[3])
    maps = x.index_select(0, batch_indices.to(torch.int64))
    weights_y = _spread(ys, x.shape[2]) * mask_y.unsqueeze(2)
    weights_x = _spread(xs, x.shape[3]) * mask_x.unsqueeze(2)
    if mode == "max":
        return _largest_corner(maps, ys, xs, mask_y, mask_x, output_height, output_width, count)
    sampled = torch.einsum("nph,nchw,nqw->ncpq", weights_y, maps, weights_x)
    bins = sampled.reshape(*sampled.shape[:2], output_height, count, output_width, count)
    return bins.mean((3, 5))


def _points(start: Tensor, length: Tensor, bins: int, count: int) -> Tensor:
    steps = (torch.arange(bins * count, dtype=start.dtype) + 0.5) / count
    return start.unsqueeze(1) + steps * (length / bins).unsqueeze(1)


def _inside(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    valid = (places >= -1) & (places <= size)
    return places.clamp(0, size - 1), valid.to(places.dtype)


def _spread(places: Tensor, size: int) -> Tensor:
    """`[n, points, size]`: by which weight each pixel counts."""
    return (1 - (places.unsqueeze(2) - torch.arange(size, dtype=places.dtype)).abs()).clamp(min=0)


def _largest_corner(
    maps: Tensor, ys: Tensor, xs: Tensor, mask_y: Tensor, mask_x: Tensor, high: int, wide: int, count: int
) -> Tensor:
    """The largest of what the four pixels around each point add to it, over the points of a bin."""
    rows, columns = maps.shape[2:]
    found = []
    for near_y in (True, False):
        for near_x in (True, False):
            low_y, low_x = ys.floor(), xs.floor()
            at_y = low_y if near_y else (low_y + 1).clamp(max=rows - 1)
            at_x = low_x if near_x else (low_x + 1).clamp(max=columns - 1)
            part_y, part_x = ys - low_y, xs - low_x
            weight_y = (1 - part_y if near_y else part_y) * mask_y
            weight_x = (1 - part_x if near_x else part_x) * mask_x
            flat = (at_y.unsqueeze(2) * columns + at_x.unsqueeze(1)).to(torch.int64)
            places = flat.reshape(flat.shape[0], 1, -1).expand(-1, maps.shape[1], -1)
            values = torch.gather(maps.flatten(2), 2, places).reshape(*maps.shape[:2], *flat.shape[1:])
            found.append(values * (weight_y.unsqueeze(2) * weight_x.unsqueeze(1)).unsqueeze(1))
    largest = torch.stack(found).amax(0)
    return largest.reshape(*largest.shape[:2], high, count, wide, count).amax((3, 5))


@onnx_op("MaxRoiPool")
def max_roi_pool(x: Tensor, rois: Sizes, *, pooled_shape: list[int], spatial_scale: float = 1.0) -> Tensor:
    """The largest of each bin of each region (Girshick, 2015); regions are constants."""
    high, wide = pooled_shape
    results = []
    for number, left, top, right, bottom in rois.array.tolist():
        left, top, right, bottom = (int(side * spatial_scale + 0.5) for side in (left, top, right, bottom))
        rows, columns = max(bottom - top + 1, 1), max(right - left + 1, 1)
        down = [slice(top + i * rows // high, top - (-(i + 1) * rows // high)) for i in range(high)]
        across = [slice(left + j * columns // wide, left - (-(j + 1) * columns // wide)) for j in range(wide)]
        bins = [x[int(number), :, one, other].amax((1, 2)) for one in down for other in across]
        results.append(torch.stack(bins, 1).reshape(-1, high, wide))
    return torch.stack(results)
