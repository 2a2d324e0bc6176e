"""Our samplers in other libraries: a module a library, which need not be installed for the rest (extra `peers`)."""
