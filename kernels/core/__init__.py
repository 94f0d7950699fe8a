"""What kernels of every family are made of, and how they are found, compiled and kept."""
