"""The shortest script that does what `minseg run` does with onnxruntime: benchmarks/startup.py
times it as a whole process.

    python benchmarks/minimal_onnxruntime.py MODEL PICTURE OUTPUT
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

model, picture, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(declared,) = session.get_inputs()
shape = [d if isinstance(d, int) else 1 for d in declared.shape]
channels_last = shape[-1] == 3
height, width = shape[1:3] if channels_last else shape[2:]
image = Image.open(picture).convert("RGB")
pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
feed = pixels[None] if channels_last else pixels.transpose(2, 0, 1)[None]
result = session.run(None, {declared.name: feed})[0]
labels = result.argmax(1)[0] if result.ndim == 4 else result[0]
mask = Image.fromarray(labels.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
Image.blend(image, Image.fromarray(palette[np.asarray(mask)]), 0.5).save(output)
