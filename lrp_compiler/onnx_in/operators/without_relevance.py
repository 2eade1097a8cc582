"""Operators of ONNX that cannot be explained, and why not."""

from ..registry import no_operator

no_operator(
    "draws random numbers, so that no two explanations would be of one output",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
no_operator(
    "handles text, which carries no relevance: give the model the numbers that are made of it",
    "StringNormalizer",
    "StringConcat",
    "StringSplit",
    "RegexFullMatch",
    "TfIdfVectorizer",
)
no_operator("reads a compressed picture: give the model its pixels", "ImageDecoder")
no_operator(
    "chooses boxes, and hands on no values that relevance could come back through: cut the graph in front of it",
    "NonMaxSuppression",
)
