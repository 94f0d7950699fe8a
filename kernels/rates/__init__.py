"""How long what kernels are made of takes, for each family of CPUs: see README.md."""
