"""Resizing."""

from minseg.kernels.core.registry import register
from minseg.kernels.resize import argmax, resize

register(*resize.KERNELS, *argmax.KERNELS)
