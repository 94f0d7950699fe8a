"""From an optimised graph to a plan (see planner.py)."""
