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

MICROSOFT = "com.microsoft"
no_operator(
    "generates text step by step: give the model that it repeats",
    "BeamSearch",
    "GreedySearch",
    "Sampling",
    "WhisperBeamSearch",
    "SpeculativePrefixCommit",
    domain=MICROSOFT,
)
no_operator(
    "handles text, which carries no relevance: give the model the numbers that are made of it",
    "Tokenizer",
    "WordConvEmbedding",
    "MurmurHash3",
    "NGramHashMapping",
    "NGramRepeatBlock",
    "VarlenNGramHashMapping",
    domain=MICROSOFT,
)
no_operator(
    "packs sequences without padding, for graphics processors: optimise the model without it",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "PagedAttention",
    "RemovePadding",
    "RestorePadding",
    domain=MICROSOFT,
)
no_operator(
    "keeps its weights in one processor's own order: give the file as it was before that",
    "MatMulFpQ4",
    "MatMulBnb4",
    "MatMulPacked",
    "QOrderedAttention",
    "QOrderedGelu",
    "QOrderedLayerNormalization",
    "QOrderedMatMul",
    "QuantizeBFP",
    "DequantizeBFP",
    "QuantizeWithOrder",
    "DequantizeWithOrder",
    domain=MICROSOFT,
)
no_operator(
    "chooses experts by a sort that is not read here: export the experts as layers",
    "MoE",
    "QMoE",
    "MoEPacked",
    domain=MICROSOFT,
)
no_operator(
    "is what one processor compiled: give the file as it was before that",
    "EPContext",
    "Snpe",
    domain=MICROSOFT,
)
no_operator(
    "belongs to a layout of one processor's: save the optimised model at ORT_ENABLE_EXTENDED, not at ORT_ENABLE_ALL",
    "Conv",
    "ReorderInput",
    "ReorderOutput",
    "MaxPool",
    "AveragePool",
    "GlobalMaxPool",
    "GlobalAveragePool",
    "Upsample",
    domain="com.microsoft.nchwc",
)
