# %% [markdown]
# # From a photo to the audit
#
# A network says what it sees in a photo. Which pixels made it say so, and where did the rest of the logit go? This page
# is `benchmarks/shown/tutorial.py`, run by `python -m benchmarks.shown.tutorial_page`; every figure and picture on it
# was made by the lines above it. Opened in VS Code or Jupyter (jupytext), the same file is a notebook; `PYTHONPATH` is
# the repository's root then.

# %% [markdown]
# ## The photo and the prediction
#
# EfficientNet-Lite0, trained on ImageNet, and the cat Chelsea that scikit-image ships.

# %%
from pathlib import Path

import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.networks import pretrained

photo = pretrained.crop(dict(pretrained.photos())["chelsea"])
x = pretrained.preprocess(dict(pretrained.photos())["chelsea"]).unsqueeze(0)
model, labels = pretrained.efficientnet_lite0(), pretrained.imagenet_labels()
with torch.no_grad():
    probabilities = model(x).softmax(-1)[0]
for number in probabilities.argsort(descending=True)[:3].tolist():
    print(f"{probabilities[number]:6.1%}  {labels[number]}")

# %% [markdown]
# ## Which pixels?
#
# The model is compiled once, for any batch. What comes out computes the prediction and the relevance of every pixel.

# %%
batch = torch.export.Dim("batch")
two = torch.cat([x, x])  # of one row torch.export would take the batch for a constant


def compiled(composite: str | lrp.Composite, **options: object) -> lrp.Explainer:
    return lrp.compile(model, (two,), composite=composite, dynamic_shapes={"x": {0: batch}}, **options)


explainer = compiled("epsilon-plus")
explanation = explainer(x)
explanation.heatmap(photo, labels=labels, style="beside")

# %% [markdown]
# A picture says on which composite and target it rests, the logit, and how much of it arrived at the pixels. The same
# numbers, to calculate with:

# %%
(case,) = explanation.explained(labels)
print(case.name, "·", case.caption)
print(f"Σ relevance by hand: {explanation.relevance['x'].double().sum():.4g}")

# %% [markdown]
# ## Other rules, other pictures
#
# What counts as a cause is the composite's choice. ε alone lets what speaks for and against cancel and is as ragged as
# a gradient; z⁺ in the convolutions follows what is excited; γ lies between, and the z-box knows the range of pixels.

# %%
box = lrp.composites.epsilon_gamma_box(low=-1.0, high=1.0)
for composite in ("epsilon", box):
    display(compiled(composite)(x).heatmap(photo, labels=labels, style="beside"))  # noqa: F821

# %% [markdown]
# ## Where the logit went
#
# Little of it arrives at the pixels under z⁺, and none of it is lost: the audit says, each share by its own formula,
# what took the rest. Here it is biases, into which the batch norms were folded.

# %%
books = explainer.audit(x)
print(f"{'logit':10}{books.seed:+10.5f}")
for name, share in books.inputs.items():
    print(f"{'input ' + name:10}{share:+10.5f}")
for cause, share in sorted(books.absorbed.items(), key=lambda item: -abs(item[1])):
    print(f"{cause:10}{share:+10.5f}")
print(f"{'error':10}{books.error:+10.1e}")

# %% [markdown]
# The five operations that absorb most:

# %%
taken = {entry.node: sum(entry.absorbed.values()) for entry in books.entries}
for entry in sorted(books.entries, key=lambda entry: -abs(taken[entry.node]))[:5]:
    print(f"{taken[entry.node]:+9.4f}  {entry.module:24} {entry.rule}")

# %% [markdown]
# ## What it costs in memory
#
# A forward value that a rule needs is a promise. The plan says how each is kept; with half of the memory, what is not
# kept is computed again.

# %%
print(explainer.plan.summary())
print()
print(compiled("epsilon-plus", memory_budget=0.5).plan.summary())

# %% [markdown]
# ## Without torch
#
# One ONNX file predicts and explains. numpy and onnxruntime run it, and the picture is the same.

# %%
from lrp_compiler.runtime import OnnxExplainer  # noqa: E402

folder = Path("build/tutorial")
folder.mkdir(parents=True, exist_ok=True)
explainer.to_onnx(folder / "model.lrp.onnx")
with OnnxExplainer(folder / "model.lrp.onnx") as onnx:
    again = onnx(x.numpy())
difference = np.abs(again.relevance["x"] - explanation.relevance["x"].numpy()).max()
print(f"largest difference to torch: {difference / np.abs(again.relevance['x']).max():.0e} of the largest relevance")
again.heatmap(photo, labels=labels, style="contour", smooth=2)
