"""Training networks: the loop, checkpoints, curves, and the weights that ship with the project."""
