"""Whole runs: one after the other over tasks, samplers and seeds, and what is made of their folders."""
