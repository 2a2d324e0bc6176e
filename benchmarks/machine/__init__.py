"""The machine: speed, memory, agreement of devices, random numbers."""
