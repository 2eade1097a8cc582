"""Weights with life: off their neutral values, and activations of about unit variance through the whole depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks.architectures.sizes import CLASSES

MAP_GAIN = 1.5
"""Above 1, so that attention picks tokens: where it averages them all, every input ends in nearly the same logits."""

BatchNorm = nn.modules.batchnorm._BatchNorm
Convolution = nn.modules.conv._ConvNd


def draw_parameters(model: nn.Module, seed: int, gain: float = MAP_GAIN) -> None:
    """Draw every parameter: maps and token embeddings that keep activations alive, biases and scales off neutral."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tokens_table = {id(_token_table(module)) for module in model.modules()}
    # The `Conv1D` of transformers keeps its weight transposed: [in, out].
    transposed = {id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kind = name.rpartition(".")[2]
            normal = torch.randn(parameter.shape, generator=generator)
            if "bias" in kind:
                drawn = 0.2 * normal
            elif id(parameter) in tokens_table:
                drawn = normal
            elif id(parameter) in embeddings or not ("weight" in kind or "proj" in kind):
                # Positions, segments and class tokens are the same in every row; they must not drown what differs.
                drawn = 0.5 * normal
            elif parameter.ndim == 1:
                drawn = 0.5 + torch.rand(parameter.shape, generator=generator)
            else:
                stacked = parameter.ndim == 3 and "proj" in kind  # experts: [experts, out, in]
                first = id(parameter) in transposed
                fan_in = parameter.shape[-1] if stacked else parameter.shape[0] if first else parameter[0].numel()
                drawn = gain * normal / fan_in**0.5
            parameter.copy_(drawn)
        for name, buffer in model.named_buffers():
            if "running" in name:
                uniform = 0.5 + torch.rand(buffer.shape, generator=generator)
                buffer.copy_(uniform if name.endswith("var") else 0.4 * (uniform - 1))


def _token_table(module: Any) -> Tensor | None:
    """Weights of the embedding that a model of transformers names as that of its input."""
    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return table.weight if isinstance(table, nn.Embedding) else None


def calibrate(model: nn.Module, example: Mapping[str, Tensor], seed: int) -> None:
    """Bring every map and batch norm to about unit variance on `example`, in one forward pass in float64.

    Without it, variance drifts by orders of magnitude over the depth of a network without normalisation, and random
    running statistics do the same to one with batch norm.
    """
    generator = torch.Generator().manual_seed(seed)

    def scale_map(module: Any, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        dim = 1 if isinstance(module, Convolution) else result.ndim - 1
        shape = [-1 if index == dim else 1 for index in range(result.ndim)]
        if module.bias is not None:
            # Centred channels keep the inputs distinguishable: without, deep ReLU networks answer nearly a constant.
            mean = result.mean([index for index in range(result.ndim) if index != dim])
            result = result - mean.view(shape)
            module.bias -= mean
        scale = 1 / result.std()
        module.weight *= scale
        if module.bias is None:
            return result * scale
        shift = 0.2 * torch.randn(module.bias.shape, generator=generator, dtype=result.dtype)
        module.bias.mul_(scale).add_(shift)
        return result * scale + shift.view(shape)

    def set_statistics(module: Any, inputs: tuple[Tensor, ...]) -> None:
        dims = [0, *range(2, inputs[0].ndim)]
        mean, variance = inputs[0].mean(dims), inputs[0].var(dims)
        variance = variance.clamp(min=0.05 * float(variance.mean()))  # a channel that slept may wake up elsewhere
        shift = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        spread = 0.5 + torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
        module.running_mean.copy_(mean + 0.2 * variance.sqrt() * shift)
        module.running_var.copy_(variance * spread)

    precision = next(model.parameters()).dtype
    model.double()
    handles = [
        module.register_forward_pre_hook(set_statistics)
        if isinstance(module, BatchNorm)
        else module.register_forward_hook(scale_map)
        for module in model.modules()
        if isinstance(module, (BatchNorm, Convolution, nn.Linear))
    ]
    with torch.no_grad():
        model(**{name: x.double() if x.is_floating_point() else x for name, x in example.items()})
    for handle in handles:
        handle.remove()
    model.to(precision)


def narrow(model: nn.Module, width: int) -> None:
    """Divide the channels of every convolution, batch norm and dense layer by `width`; image and classes stay."""
    for module in model.modules():
        if isinstance(module, Convolution):
            module.groups = max(1, module.groups // width)
            module.in_channels = module.in_channels if module.in_channels <= 3 else module.in_channels // width
            module.out_channels //= width
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        elif isinstance(module, nn.Linear):
            module.in_features //= width
            module.out_features = CLASSES if module.out_features == CLASSES else module.out_features // width
            shape = (module.out_features, module.in_features)
        elif isinstance(module, BatchNorm):
            module.num_features //= width
            shape = (module.num_features,)
            for name in ("running_mean", "running_var"):
                setattr(module, name, torch.empty(shape))
        else:
            continue
        module.weight = nn.Parameter(torch.empty(shape))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.empty(shape[0]))
