"""The calls of other libraries, answered by explainers: `lrp.captum.LRP` and `lrp.quantus.explain`.

Neither library is needed, and neither is imported.
"""
