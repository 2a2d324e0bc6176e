"""Science: MRI and compressed sensing under known posteriors."""
