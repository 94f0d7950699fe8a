"""Quantises a model with NNCF: python quantise_nncf.py MODEL.onnx PICTURES.npy OUT.onnx.

PICTURES.npy holds [n, 1, 3, H, W] float32. A program of its own, because NNCF wants packages that
minseg's tests don't.
"""

import sys

import nncf
import numpy as np
import onnx

source, pictures, target = sys.argv[1:]
model = onnx.load(source)
name = model.graph.input[0].name
feeds = [{name: picture} for picture in np.load(pictures)]
onnx.save(nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds)), target)
