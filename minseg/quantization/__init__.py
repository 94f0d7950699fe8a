"""Static post-training quantisation: a network of floats becomes one of 8-bit integers."""
