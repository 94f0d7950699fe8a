"""Measurements of this machine, of minseg on it, and of other engines beside it."""
