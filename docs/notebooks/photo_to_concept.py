# %% [markdown]
# # From a photo to its concepts
#
# A heatmap says *where* a network looked. It does not say *what* it saw there: fur and an ear may be equally red, for
# different reasons. Here relevance is followed to the channels of a late layer, each of them is explained by itself,
# and other photographs show what it stands for (Concept Relevance Propagation, [arXiv
# 2206.03208](https://arxiv.org/abs/2206.03208)).
#
# The network is SqueezeNet 1.1, trained on ImageNet. Its weights and the 26 photographs are inside packages that pip
# installs; nothing comes from a hub.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.networks import pretrained
from lrp_compiler import concepts

model, labels = pretrained.squeezenet1_1(), pretrained.imagenet_labels()
images = [image for _, image in pretrained.photos()]
images += [photo.image for photo in pretrained.imagenet_photos()]
photos = [
    pretrained.crop(image, pretrained.CAFFE_SIZE) for image in images
]  # to draw on
pixels = torch.stack([pretrained.preprocess_caffe(image) for image in images])
x = pixels[:1]
pixels.shape

# %% [markdown]
# ## Compiled once, with doors into the network
#
# `observe` adds the relevance of a layer's values to the results; `masks` gives the explainer an input that says which
# of the layer's channels relevance may pass; `target="index"` lets a call choose the class. The layer is the last
# block before the classifier: 512 channels, each a map of 14 × 14 places.

# %%
LAYER = "features.12"
batch = {"x": {0: torch.export.Dim("batch")}}
explainer = lrp.compile(
    model,
    (pixels[:2],),  # of one row torch.export would take the batch for a constant
    composite="epsilon-plus",
    target="index",
    observe=LAYER,
    masks=LAYER,
    dynamic_shapes=batch,
)
cat = labels.index("Egyptian cat")
explainer(x, target=cat).heatmap(photos[0], labels=labels, style="beside", smooth=1.5)

# %% [markdown]
# ## Which channels?
#
# `channels` sums relevance over the places of the map and states each channel's share of Σ|R|. A few channels carry
# much of what the network has to say about this cat.

# %%
shares = concepts.channels(explainer, x, LAYER, target=cat)[0]
strongest = np.argsort(-shares)[:4].tolist()
for channel in strongest:
    print(f"channel {channel:3}  {shares[channel]:6.1%}")
print(f"these four   {shares[strongest].sum():6.1%}, of {len(shares)}")

# %% [markdown]
# ## Each channel by itself
#
# One forward, and for each condition the relevance that passes its channels alone. A condition is a dictionary: which
# channels of which layer, and which class (`"y"`).

# %%
conditions = [{LAYER: channel, "y": cat} for channel in strongest]
under = concepts.conditional(explainer, x, conditions).relevance["x"]
alone = under[:, 0].sum(1)  # [conditions, height, width]

whole = explainer(x, target=cat).relevance["x"].sum()
for channel, part in zip(strongest, alone, strict=True):
    print(
        f"channel {channel:3}: {part.sum() / whole:5.1%} of the relevance of all pixels"
    )

# %% [markdown]
# ## What else makes a channel speak?
#
# `references` looks through photographs, batch after batch, for those in which a channel is the most active. It keeps
# numbers of samples and no pictures, so a data set may be as long as it likes.

# %%
found = concepts.references(explainer, pixels.split(9), LAYER, by="activation", k=5)
for channel in strongest:
    print(f"channel {channel:3}: photographs {found.samples[channel].tolist()}")

# %% [markdown]
# Where in those photographs is it? A seed puts relevance on the channel itself, so that the channel's activation is
# explained instead of a class. In unit form 1 at every place of the map explains their sum.

# %%
neuron = lrp.compile(
    model,
    (pixels[:2],),
    composite="epsilon-plus",
    target=None,
    seeds=lrp.Put(LAYER, "unit"),
    dynamic_shapes=batch,
)
seed = torch.zeros(1, len(shares), 14, 14)
seed[:, strongest[0]] = 1
neuron(x, seeds={LAYER: seed})

# %% [markdown]
# ## The picture
#
# A row is a channel. On the left the cat, as bright as its relevance through this channel alone; beside it the three
# other photographs in which the channel is the most active, as bright as the relevance of that activation. What is
# bright along a row is what makes this channel speak.


# %%
def lit(photo: object, relevance: torch.Tensor) -> np.ndarray:
    """The photograph, dark where its relevance `[height, width]` is small."""
    smooth = torch.nn.functional.avg_pool2d(
        relevance.clamp(min=0)[None], 15, stride=1, padding=7
    )[0]
    light = 0.15 + 0.85 * (smooth / smooth.quantile(0.98)).clamp(max=1)
    return np.asarray(photo) / 255 * light[..., None].numpy()


_, parts = plt.subplots(len(strongest), 4, figsize=(10, 10.6), layout="constrained")
for row, (channel, own) in enumerate(zip(strongest, alone, strict=True)):
    others = [number for number in found.samples[channel] if number != 0][:3]
    seed = torch.zeros(3, len(shares), 14, 14)
    seed[:, channel] = 1
    theirs = neuron(pixels[others], seeds={LAYER: seed}).relevance["x"].sum(1)
    shown = [(0, own), *zip(others, theirs, strict=True)]
    for part, (number, relevance) in zip(parts[row], shown, strict=True):
        part.set(xticks=[], yticks=[])
        part.imshow(lit(photos[number], relevance))
    parts[row, 0].set_ylabel(f"channel {channel}, {shares[channel]:.1%}", fontsize=13)

# %% [markdown]
# [Inside the network](../pages/how-to/latent.md) has the rest: conditions over several layers, dictionaries of
# features (sparse autoencoders), and the same masks and seeds as inputs of an ONNX file.
