"""Where the window of an output pixel lies in the picture, for kernels that walk it tap by tap."""

from __future__ import annotations

from minseg.kernels.jit import inline


@inline
def taps_before(edge, D, K):
    """How many of K taps, D elements apart, lie before ``edge`` (counted from the first tap)."""
    return min(K, (max(0, edge) + D - 1) // D)


@inline
def first_inside(S, P, out):
    """The first output element along an axis whose window starts inside the input."""
    return min(out, (P + S - 1) // S)


@inline
def end_inside(size, K, S, D, P, out):
    """One more than the last output element whose window ends inside the input of ``size``; not
    less than `first_inside`."""
    return max(first_inside(S, P, out), min(out, (size + P - (K - 1) * D - 1) // S + 1))
