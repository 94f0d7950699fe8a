"""Softmax, and what else looks along an axis first."""

from minseg.kernels.core.registry import register
from minseg.kernels.normalize import softmax

register(*softmax.KERNELS)
