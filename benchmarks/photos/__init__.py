"""The prior of photographs."""
