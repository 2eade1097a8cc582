"""Published architectures, built from configuration: full depth and op structure, random weights that live.

Weights as a framework initialises them hide errors: zero biases, neutral normalisations and logits near zero make many
wrong results right. Here every bias, shift, scale and statistic is drawn away from its neutral value, and activations
have about unit variance through the whole depth.

    architecture = ARCHITECTURES["gpt2"]
    model = architecture.build(width=8)                    # an eighth of the published width
    kwargs = architecture.inputs(2)                        # example inputs for a batch of 2
    lrp.compile(model, kwargs=kwargs, dynamic_shapes=architecture.dynamic_shapes)
"""

from benchmarks.networks.architectures.architecture import Architecture
from benchmarks.networks.architectures.builders import constructed, from_config, text
from benchmarks.networks.architectures.configurations import LABELS, LLAMA3_ROPE, TRANSFORMERS_ENCODER
from benchmarks.networks.architectures.inputs import patches, tokens
from benchmarks.networks.architectures.language import LANGUAGE
from benchmarks.networks.architectures.others import OTHERS
from benchmarks.networks.architectures.paper import FIFTEEN
from benchmarks.networks.architectures.sizes import CLASSES, Vocabulary
from benchmarks.networks.architectures.vision import VISION
from benchmarks.networks.architectures.weights import calibrate, draw_parameters

__all__ = [
    "ARCHITECTURES",
    "CLASSES",
    "LABELS",
    "LLAMA3_ROPE",
    "TRANSFORMERS_ENCODER",
    "Architecture",
    "Vocabulary",
    "calibrate",
    "constructed",
    "draw_parameters",
    "from_config",
    "patches",
    "text",
    "tokens",
]

ARCHITECTURES: dict[str, Architecture] = FIFTEEN | VISION | LANGUAGE | OTHERS
"""By name, in the order of the tables."""
