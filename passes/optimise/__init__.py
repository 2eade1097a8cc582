"""Rewrites that change the speed of an explainer and nothing else."""
