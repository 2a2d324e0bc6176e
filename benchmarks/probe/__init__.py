"""Whether a prior is what it claims to be: measurements, a verdict in words, a page."""
