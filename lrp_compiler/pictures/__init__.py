"""Relevance to look at: heatmaps, tokens, spectrograms, layers and heads. Torch-free.

Each is a method of `Explanation` too. What is drawn needs matplotlib (`pip install 'lrp-compiler[plots]'`); tokens as
HTML or for a terminal need nothing.
"""
