"""Random weights with life, narrower layers, and weights without biases, for any model of the zoo."""

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm

# Above 1, so that attention picks tokens: where it averages them all, every input ends in nearly the same logits.
MAP_GAIN = 1.5


def zero_biases(model: nn.Module) -> nn.Module:
    """Set every bias, every shift of a normalisation and every running mean to zero, in place, and return the model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # also attention's `in_proj_bias`
                parameter.zero_()
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.zero_()
    return model


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw every parameter: maps and token embeddings that keep activations alive, biases and scales off neutral."""
    generator = torch.Generator().manual_seed(seed)
    tokens = model.get_input_embeddings().weight if hasattr(model, "get_input_embeddings") else None
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    # The `Conv1D` of transformers keeps its weight transposed: [in, out].
    transposed = {id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            normal = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                drawn = 0.2 * normal
            elif parameter is tokens:
                drawn = normal
            elif id(parameter) in embeddings or not name.endswith("weight"):
                # Positions, segments and class tokens are the same in every row; they must not drown what differs.
                drawn = 0.5 * normal
            elif parameter.ndim == 1:
                drawn = 0.5 + torch.rand(parameter.shape, generator=generator)
            else:
                fan_in = parameter.shape[0] if id(parameter) in transposed else parameter[0].numel()
                drawn = MAP_GAIN * normal / fan_in**0.5
            parameter.copy_(drawn)


def calibrate(model: nn.Module, x: Tensor, seed: int) -> None:
    """Bring every map and batch norm of a convolutional network to unit variance on `x`, in one forward pass.

    Without it, variance drifts by orders of magnitude over the depth of a network without normalisation, and random
    running statistics do the same to one with batch norm. It runs in float64 and ends in the model's own precision, so
    that rounding noise of one machine does not reach the weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def scale_map(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if module.bias is not None:
            # Centred channels keep the inputs distinguishable: without, deep ReLU networks answer nearly a constant.
            shape = (1, -1) + (1,) * (output.ndim - 2)
            mean = output.mean([0, *range(2, output.ndim)])
            output = output - mean.view(shape)
            module.bias -= mean
        scale = 1 / output.std()
        module.weight *= scale
        if module.bias is None:
            return output * scale
        shift = 0.2 * torch.randn(module.bias.shape, generator=generator, dtype=output.dtype)
        module.bias.mul_(scale).add_(shift)
        return output * scale + shift.view(shape)

    def set_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dims = [0, *range(2, inputs[0].ndim)]
        mean, variance = inputs[0].mean(dims), inputs[0].var(dims)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        spread = 0.5 + torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
        module.running_mean.copy_(mean + 0.2 * variance.sqrt() * noise)
        module.running_var.copy_(variance * spread)

    precision = next(model.parameters()).dtype
    model.double()
    handles = [
        module.register_forward_pre_hook(set_statistics)
        if isinstance(module, BatchNorm)
        else module.register_forward_hook(scale_map)
        for module in model.modules()
        if isinstance(module, (BatchNorm, nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(x.double())
    for handle in handles:
        handle.remove()
    model.to(precision)


def narrow(model: nn.Module, width: int, classes: int) -> None:
    """Divide the channels of every convolution, batch norm and dense layer by `width`; image and classes stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.groups = max(1, module.groups // width)
            module.in_channels = module.in_channels if module.in_channels == 3 else module.in_channels // width
            module.out_channels //= width
        elif isinstance(module, nn.Linear):
            module.in_features //= width
            module.out_features = classes if module.out_features == classes else module.out_features // width
        elif isinstance(module, BatchNorm):
            module.num_features //= width
            for name in ("running_mean", "running_var"):
                setattr(module, name, torch.empty(module.num_features))
        else:
            continue
        _resize_parameters(module)


def _resize_parameters(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        outputs = module.out_channels
        shape = (outputs, module.in_channels // module.groups, *module.kernel_size)
    elif isinstance(module, nn.Linear):
        outputs, shape = module.out_features, (module.out_features, module.in_features)
    else:
        outputs, shape = module.num_features, (module.num_features,)
    module.weight = nn.Parameter(torch.empty(shape))
    if module.bias is not None:
        module.bias = nn.Parameter(torch.empty(outputs))
