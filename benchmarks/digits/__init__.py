"""Handwritten digits: the classifier that counts them, how good a prior of them is, classes of samples."""
