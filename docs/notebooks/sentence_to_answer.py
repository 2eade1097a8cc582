# %% [markdown]
# # From a sentence to its answer
#
# A language model reads a few sentences and answers a question about them. Which words of the sentences made which
# words of the answer? The model is SmolLM2-135M-Instruct; its weights are inside a package that pip fetches, nothing
# comes from a hub.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.networks import pretrained

tokenizer, model = pretrained.smollm2()
context = (
    "Oskar lives in Prague. He repairs old violins. "
    "His sister Marta lives in Lisbon and bakes bread."
)
prompt = f"{context}\n\nQuestion: Who bakes bread, and where?\nAnswer:"

read = tokenizer(prompt, return_tensors="pt")
options = {
    "max_new_tokens": 16,
    "do_sample": False,
    "pad_token_id": tokenizer.eos_token_id,
}
with torch.no_grad():
    text = model.generate(**read, **options)
answer = tokenizer.decode(
    text[0, read["input_ids"].shape[1] :], skip_special_tokens=True
)
print(answer)

# %% [markdown]
# ## Compiled once, for any text
#
# `lrp.Answer()` is the target: the logits of tokens that stand in the text itself. The length is open, so that the
# same explainer takes every other text as well. (`lrp.explain_answer(model, tokenizer, prompt)` does all of this in
# one call, and compiles for that one.)

# %%
explainer = lrp.compile(
    model,
    kwargs={"input_ids": text},
    composite="attnlrp",
    target=lrp.Answer(),
    dynamic_shapes={"input_ids": {1: torch.export.Dim("sequence", min=2, max=2048)}},
)
explanation = explainer.answer(tokenizer, prompt, answer)
explanation

# %% [markdown]
# Point at a token of the answer, or tap it: its sources light up, red for what spoke for it, blue for what spoke
# against.
#
# ## The matrix behind it
#
# A row is a token of the answer, a column a token of the text: `matrix[i, j]` is how much token j contributed to the
# logit of token i. What no token got was absorbed on the way, by normalisations and biases, and all of it adds up to
# the logit.

# %%
print(explanation)
for row, piece in enumerate(explanation.rows):
    tokens, absorbed = explanation.matrix[row].sum(), explanation.absorbed[row]
    logit = explanation.scores[row]
    print(
        f"{piece.text!r:10} {tokens:6.2f} + absorbed {absorbed:6.2f} = logit {logit:6.2f}"
    )

# %% [markdown]
# ## Through the answer to the prompt
#
# Much of a token's relevance lies on the answer's own tokens before it: what was written already decides what comes
# next. `hops` sends that share on through them to the prompt, and `by` sums tokens up to words. The strongest words of
# the prompt for the city:

# %%
words = explanation.hops(3).by("word")
city = next(number for number, piece in enumerate(words.rows) if "Lisbon" in piece.text)
ranked = sorted(
    zip(words.matrix[city], words.columns, strict=True), key=lambda pair: -pair[0]
)
for share, piece in ranked[:6]:
    print(f"{share:+6.2f}  {piece.text.strip()}")

# %% [markdown]
# ## What would have spoken for another answer?
#
# The same explainer takes a text that the model did not write. The wrong city scores less (a word's score is that of
# all its tokens, the full stop's too), and its relevance says what in the text would speak for it.

# %%
wrong = (
    explainer.answer(tokenizer, prompt, answer.replace("Lisbon", "Prague"))
    .hops(3)
    .by("word")
)
for found in (words, wrong):
    print(f"{found.rows[city].text.strip()} scores {found.scores[city]:.2f}")

# %% [markdown]
# Side by side, over the words of the context:

# %%
until = next(
    number for number, piece in enumerate(words.columns) if "Question" in piece.text
)
shown = [
    number for number, piece in enumerate(words.columns[:until]) if piece.text.strip()
]

_, part = plt.subplots(figsize=(10, 4), layout="constrained")
for found, colour, aside in ((words, "#c0392b", -0.2), (wrong, "#7f8c8d", 0.2)):
    name = found.rows[city].text.strip()
    part.bar(
        np.arange(len(shown)) + aside,
        found.matrix[city, shown],
        0.4,
        color=colour,
        label=f"for “{name}”",
    )
part.set_xticks(
    range(len(shown)),
    [words.columns[number].text.strip() for number in shown],
    rotation=60,
    ha="right",
)
part.axhline(0, color="black", linewidth=0.8)
part.set_ylabel("relevance")
part.legend()
plt.show()

# %% [markdown]
# ## A wrong answer, and its cause
#
# The model said rightly who bakes bread. Who repairs the violins?


# %%
def written(prompt):
    read = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        text = model.generate(**read, **options)
    said = text[0, read["input_ids"].shape[1] :]
    return tokenizer.decode(said, skip_special_tokens=True)


violins = prompt.replace("Who bakes bread", "Who repairs old violins")
mistaken = written(violins)
print(mistaken)

# %% [markdown]
# Nobody but Oskar does. The answer before was right and this one is wrong, and both begin with the same name. Which
# words made it, and how much came from the question, all of its words together?

# %%
traced = explainer.answer(tokenizer, violins, mistaken)
for found in (explanation, traced):
    by_word = found.by("word")
    texts = [piece.text.strip() for piece in by_word.columns]
    name = by_word.matrix[0]
    asked = slice(texts.index("Who"), texts.index("where?") + 1)
    shares = [
        f"{text} {share:.2f}"
        for text, share, piece in zip(texts, name, by_word.columns, strict=True)
        if piece.part == "prompt" and share > 0.6
    ]
    print(f"{', '.join(shares)} | the question {name[asked].sum():.2f}")

# %% [markdown]
# It is the same explanation twice: “Marta”, where the name was last read, then full stops and what frames the answer.
# What tells the two questions apart takes no part in it. So the model does not look for who repairs violins, and fail:
# it says who was named last, and was right about the bread by luck. That can be tried: the same sentences, Oskar's
# behind his sister's.

# %%
behind = (
    "His sister Marta lives in Lisbon and bakes bread. "
    "Oskar lives in Prague. He repairs old violins."
)
for asked in (prompt, violins):
    print(repr(written(asked.replace(context, behind))))

# %% [markdown]
# Now Oskar repairs the violins, which is right, and bakes the bread. A right answer and a wrong one had one cause, and
# what they say does not show it; what they were made of does.
#
# [Explain what a language model wrote](../pages/how-to/answers.md) has the rest: spans, log-probabilities, one answer
# against another in one run, and the explainer as an ONNX file.
