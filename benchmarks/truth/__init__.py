"""Exact truth: priors whose posteriors are known, and samplers held against them."""
