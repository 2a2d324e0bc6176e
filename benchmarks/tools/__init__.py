"""Tools that several rooms use."""
