"""A dense layer, a ReLU and another dense layer, with weights that one can explain in one's head."""

import torch


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(3, 4)
        self.classes = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(torch.relu(self.hidden(x)))


WEIGHTS = {
    "hidden_weight": [[1.0, 0, 0], [0, 0, 1], [1, 0, -1], [0, 2, 0]],
    "hidden_bias": [0.0, 0, 0, -1],
    "classes_weight": [[1.0, 1, 5, 0], [1, 0, 0, -1]],
    "classes_bias": [-1.0, 2],
}
X = [[1.0, 2, 3]]
# ε is 1, so that z/(|z| + ε) are fractions that one can do in one's head.
BY_HAND = {
    "linear": [[1.0, 3, -2, 3]],
    "relu": [[1.0, 3, 0, 3]],
    "linear_1": [[3.0, 0]],
    "to": [[1.0, 0]],  # the seed: the larger logit, itself
    "div": [[3 / 4, 0]],
    "mul": [[3 / 4, 0]],
    "matmul": [[3 / 4, 3 / 4, 15 / 4, 0]],  # the first row of the weights, times 3/4
    "mul_tensor": [[3 / 4, 9 / 4, 0, 0]],  # times what the ReLU let through: the relevance itself
    "add_tensor": [[2.0, 4, 1, 4]],
    "div_tensor": [[3 / 8, 9 / 16, 0, 0]],
    "matmul_1": [[3 / 8, 0, 9 / 16]],
    "mul_3": [[3 / 8, 0, 27 / 16]],
}
# 3 = 3/8 + 27/16 + what the stabiliser takes (1/4 of 3; 1/2 of 3/4, 1/4 of 9/4) + what the bias takes (−1 · 3/4).
ABSORBED = {"stabiliser": 3 / 4 + 3 / 8 + 9 / 16, "bias": -3 / 4}


def with_weights_by_hand() -> Net:
    """The network whose numbers are those of `BY_HAND`."""
    net = Net().eval()
    for name, parameter in net.named_parameters():
        parameter.data = torch.tensor(WEIGHTS[name.replace(".", "_")])
    return net
