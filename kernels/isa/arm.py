"""NEON, which every CPU of 64-bit Arm has."""

from minseg.kernels.isa.generic import GENERIC
from minseg.kernels.isa.instruction_set import VectorUnit

NEON = GENERIC.extended("neon", architecture="arm", vectors=VectorUnit(bytes=16, registers=32))
