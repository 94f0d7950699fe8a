"""The words kernels are written in, and what they become on each instruction set."""
