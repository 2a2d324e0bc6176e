"""Faces: the learned prior of toon faces, quality against cost, and files that are fitted to faces."""
