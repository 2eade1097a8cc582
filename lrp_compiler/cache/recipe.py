"""How the constants of a graph follow from a model's weights: written down while it is compiled, and followed later.

    batch norm folded:   weight · γ / √(σ² + ε)    →    rsqrt(σ² + ε), mul(γ, …), view, mul(weight, …): four steps

What the passes ask of a weight's values (is it one number everywhere?) is written down with the answer: where another
model's weights answer otherwise, the recipe is none for it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lrp_compiler.torch_private import OpOverload, TorchDispatchMode, pytree, without_modes
from lrp_compiler.torch_private import schema as schema_of

SMALL = 1 << 16
"""Elements of a constant that follows from no weight and may stand in a recipe."""
READERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__contains__}
"""Functions by which values leave torch unseen."""
NUMBERS = {Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__complex__}
"""Those by which one number does: seen below torch, but not while a model is traced."""


class Unwritten(Exception):
    """What was done with the weights cannot be written down; the message says what, and is half a sentence."""


class Other(Exception):
    """A recipe is none for these weights: something that was decided by their values would be decided otherwise."""


class Recorder:
    """Writes down what is calculated from weights in its block; what is done with fake tensors is let through.

    Args:
        weights: of the model that is compiled.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.steps: list[dict[str, Any]] = []
        self.failure = ""
        """Why there is no recipe: half a sentence; "": there is one."""
        self._weights = {_place(weight) for weight in weights}
        self._names: dict[Any, Any] = {}
        self._within: dict[int, Tensor] = {}
        self._held: list[Tensor] = []
        self._places: list[set[int]] = []
        for at, weight in enumerate(weights):
            self._call(weight, ["weight", at])

    def __enter__(self) -> Recorder:
        self._modes = (_Calls(self), _Reads(self, READERS))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def tracing(self) -> TorchFunctionMode:
        """A block in which it is written down which weights the model's code reads: the graph holds the values."""
        return _Reads(self, READERS | NUMBERS)

    def run(self, function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call, and write it down if it has to do with weights."""
        operands = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if self.failure or not any(map(self._follows, operands)) or not all(map(_is_plain, operands)):
            return function(*args, **kwargs)
        if not isinstance(function, OpOverload):
            self.failure = f"{function} takes one"
            return function(*args, **kwargs)
        try:
            step = {"op": str(function), "args": self._plain(args), "kwargs": self._plain(kwargs)}
            self._refuse(function, args, kwargs)
        except Unwritten as reason:
            self.failure = str(reason)
            return function(*args, **kwargs)
        result = function(*args, **kwargs)
        made = pytree.tree_leaves(result)
        if all(isinstance(one, Tensor) for one in made):
            self._write(step, operands + made)
            for at, one in enumerate(made):
                self._call(one, ["step", len(self.steps) - 1, at])
        elif made == [result] and isinstance(result, bool | int | float):
            self._write({**step, "answer": result}, operands)
        elif made:
            self.failure = f"{function} returns a {type(result).__name__}"
        return result

    def reads(self, tensor: Tensor) -> None:
        """Write down that values leave torch here, where nobody sees what is done with them."""
        if self.failure or not _is_plain(tensor) or not self._follows(tensor):
            return
        with without_modes():
            self._write({"read": self._tensor(tensor), "values": _digest(tensor)}, [tensor])

    def recipe(self, constants: Mapping[str, Tensor]) -> dict[str, Any]:
        """How each of the constants follows from the weights; those that follow from none are left out.

        Args:
            constants: name → tensor.

        Returns:
            Plain data for `follow`.

        Raises:
            Unwritten: something was done with a weight that cannot be written down.
        """
        if self.failure:
            raise Unwritten(self.failure)
        following = {name: tensor for name, tensor in constants.items() if self._follows(tensor)}
        found = {name: self._tensor(tensor) for name, tensor in following.items()}
        needed = {_place(tensor) for tensor in following.values()}
        kept: list[int] = []
        for at in reversed(range(len(self.steps))):
            if self._places[at] & needed or not {"answer", "values"}.isdisjoint(self.steps[at]):
                needed |= self._places[at]
                kept.insert(0, at)
        numbers = {old: new for new, old in enumerate(kept)}
        return _renumbered({"steps": [self.steps[at] for at in kept], "constants": found}, numbers)

    def _write(self, step: dict[str, Any], tensors: Sequence[Tensor]) -> None:
        self.steps.append(step)
        self._places.append({_place(one) for one in tensors if one.numel()})

    def _call(self, tensor: Tensor, name: Any) -> None:
        if tensor.numel():
            self._names[_geometry(tensor)] = name
            self._within.setdefault(_place(tensor), tensor)
            self._held.append(tensor)  # what is freed could be taken for what comes to lie in its place

    def _follows(self, value: Any) -> bool:
        """Whether a value follows from weights; one without elements follows from nothing."""
        return isinstance(value, Tensor) and _is_plain(value) and value.numel() > 0 and _place(value) in self._within

    def _refuse(self, function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise Unwritten(f"{function} is random")
        for changed in _changed(function, args, kwargs):
            if _place(changed) in self._weights:
                raise Unwritten(f"{function} changes a weight")
            whole = changed.untyped_storage().nbytes() == changed.numel() * changed.element_size()
            if not whole and not self._follows(changed):
                raise Unwritten(f"{function} changes a part of something new")

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        if isinstance(value, dict):
            return {"items": {name: self._plain(one) for name, one in value.items()}}
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise Unwritten(f"an operand is a {type(value).__name__}")

    def _tensor(self, tensor: Tensor) -> Any:
        if not self._follows(tensor):
            return constant(tensor)
        name = self._names.get(_geometry(tensor))
        if name is not None:
            return {"tensor": name}
        base = self._within[_place(tensor)]
        if base.dtype != tensor.dtype:
            raise Unwritten("a weight is read as if it were of another dtype")
        geometry = [list(tensor.shape), list(tensor.stride()), tensor.storage_offset()]
        return {"tensor": self._names[_geometry(base)], "as": geometry}


class _Calls(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.recorder.run(function, args, kwargs or {})


class _Reads(TorchFunctionMode):
    def __init__(self, recorder: Recorder, readers: Set[Any]) -> None:
        super().__init__()
        self.recorder = recorder
        self.readers = readers

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.readers and args and isinstance(args[0], Tensor):
            self.recorder.reads(args[0])
        return function(*args, **(kwargs or {}))


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and not tensor.is_meta and tensor.layout is torch.strided


def _changed(function: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The operands that a call writes to."""
    schema = schema_of(function)
    if not schema.is_mutable:
        return []
    given = dict(zip((one.name for one in schema.arguments), args, strict=False)) | dict(kwargs)
    names = [one.name for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    leaves = [leaf for name in names for leaf in pytree.tree_leaves(given.get(name))]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _renumbered(plain: Any, numbers: Mapping[int, int]) -> Any:
    """The same, with steps by their new numbers."""
    if isinstance(plain, list):
        return [_renumbered(one, numbers) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain and plain["tensor"][0] == "step":
        _, step, at = plain["tensor"]
        return {**plain, "tensor": ["step", numbers[step], at]}
    return {name: _renumbered(one, numbers) for name, one in plain.items()}


def follow(recipe: Mapping[str, Any], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """The constants, by name, of a model with these weights.

    Raises:
        Other: something was decided by the values of the weights, and would be decided otherwise by these.
    """
    made: list[list[Any]] = []

    def tensor(name: Sequence[Any]) -> Tensor:
        return weights[name[1]].detach() if name[0] == "weight" else made[name[1]][name[2]]

    def value(plain: Any) -> Any:
        if isinstance(plain, list):
            return [value(one) for one in plain]
        if not isinstance(plain, dict):
            return plain
        if "tensor" in plain:
            found = tensor(plain["tensor"])
            return torch.as_strided(found, *plain["as"]) if "as" in plain else found
        if "literal" in plain:
            return _of_literal(plain["literal"])
        if "torch" in plain:
            return getattr(torch, plain["torch"])
        if "device" in plain:
            return torch.device(plain["device"])
        return {name: value(one) for name, one in plain["items"].items()}

    with torch.no_grad():
        for step in recipe["steps"]:
            if "read" in step:
                made.append([])
                if _digest(value(step["read"])) != step["values"]:
                    raise Other
                continue
            result = _op(step["op"])(*value(step["args"]), **value(step["kwargs"]))
            if "answer" in step and result != step["answer"]:
                raise Other
            made.append(pytree.tree_leaves(result))
        return {name: value(plain) for name, plain in recipe["constants"].items()}


def _op(name: str) -> OpOverload:
    """The overload of a name as torch writes it; of torch's own alone."""
    namespace, packet, overload = name.split(".")
    if namespace not in ("aten", "prims"):
        raise Other
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _geometry(tensor: Tensor) -> Any:
    return (_place(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return flat


def constant(tensor: Tensor) -> dict[str, Any]:
    """A tensor that follows from no weight, by its values.

    Raises:
        Unwritten: it is too large.
    """
    if tensor.numel() > SMALL or tensor.layout is not torch.strided:
        raise Unwritten(f"a constant of {tensor.numel()} elements takes part")
    return {"literal": _literal(tensor)}


def _literal(tensor: Tensor) -> dict[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": kind, "shape": list(tensor.shape), "bytes": base64.b64encode(_bytes(tensor)).decode()}


def _of_literal(literal: Mapping[str, Any]) -> Tensor:
    flat = np.frombuffer(base64.b64decode(literal["bytes"]), dtype=np.uint8)
    return torch.from_numpy(flat.copy()).view(getattr(torch, literal["dtype"])).reshape(literal["shape"])
