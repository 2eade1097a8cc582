"""How far a result is from what float64 says, row by row."""

import numpy as np
import torch
from torch import Tensor


def row_errors(result: np.ndarray, exact: Tensor) -> np.ndarray:
    """Largest difference of each row, as a share of the row's largest value."""
    difference = (torch.as_tensor(result).double() - exact).flatten(1).abs().amax(1)
    return (difference / exact.flatten(1).abs().amax(1)).numpy()


def logits_of(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output["logits"]  # type: ignore[index]
