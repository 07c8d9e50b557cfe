"""One command that builds, checks and measures the kernels on a GPU machine: ``python -m tools.gpu``."""
