"""Samplers of other libraries, for the judge: a module a library, which need not be installed for the rest."""
