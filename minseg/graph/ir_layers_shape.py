"""Layers that move elements or compute with shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minseg.graph.ir_quantised import reshape_weights
from minseg.graph.ir_translate import Call, layer
from minseg.graph.ir_weights import Unsupported, layer_dtype

_MOST, _LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


@layer("Concat", 1)
def concat(call: Call) -> str:
    return call.op("Concat", *call.inputs, axis=call.layer.integer("axis"))


@layer("Split", 1)
def split(call: Call) -> tuple[str, ...]:
    (axis,) = call.fixed_ints(1, "axis")
    count = call.layer.integer("num_splits")
    if count != len(call.layer.outputs):
        raise ValueError(f"it has {len(call.layer.outputs)} outputs, but num_splits is {count}")
    return call.ops("Split", call.inputs[0], outputs=count, axis=axis, num_outputs=count)


@layer("VariadicSplit", 1)
def variadic_split(call: Call) -> tuple[str, ...]:
    """One length may be -1: what is left."""
    (axis,) = call.fixed_ints(1, "axis")
    lengths = call.fixed_ints(2, "lengths")
    if -1 in lengths:
        size = call.shape(0)[call.axis(axis)]
        if size is None:
            raise Unsupported("a length of -1 on an axis of unknown size")
        left = size - sum(n for n in lengths if n != -1)
        lengths = tuple(left if n == -1 else n for n in lengths)
    sizes = call.ints(*lengths)
    return call.ops("Split", call.inputs[0], sizes, outputs=len(lengths), axis=axis)


@layer("Slice", 8)
def slice_(call: Call) -> str:
    start, stop, step, *axes = (call.int64_list(i) for i in range(1, len(call.inputs)))
    if not axes:
        axes = [call.ints(*range(call.shape(1)[0] or 0))]
    return call.op("Slice", call.inputs[0], start, stop, axes[0], step)


@dataclass(frozen=True)
class _Cut:
    """Entry ``entry`` of begin, end and strides, which belongs to ``axis`` of the input."""

    entry: int
    axis: int
    step: int
    begin_open: bool
    end_open: bool
    is_index: bool

    @property
    def keeps_all(self) -> bool:
        return self.begin_open and self.end_open and self.step == 1 and not self.is_index


@layer("StridedSlice", 1)
def strided_slice(call: Call) -> str:
    """As NumPy's indexing with slices, newaxis, numbers and an ellipsis."""
    cuts, added = _cuts(call)
    indices = [cut for cut in cuts if cut.is_index]
    cuts = [cut for cut in cuts if not cut.keeps_all]
    value = call.inputs[0]
    if cuts:
        starts = _limits(call, 1, cuts, [_first(cut) for cut in cuts])
        ends = _limits(call, 2, cuts, [_last(cut) for cut in cuts])
        if indices:
            ends = _behind_indices(call, starts, ends, cuts)
        axes, steps = call.ints(*(c.axis for c in cuts)), call.ints(*(c.step for c in cuts))
        value = call.op("Slice", value, starts, ends, axes, steps)
    if indices:
        value = call.op("Squeeze", value, call.ints(*(cut.axis for cut in indices)))
    return call.op("Unsqueeze", value, call.ints(*added)) if added else value


def _cuts(call: Call) -> tuple[list[_Cut], list[int]]:
    """What is cut from the input's axes, and where the output gets new ones."""
    begin, strides = call.known(1), call.known(3)
    count = begin.size if begin is not None else call.shape(1)[0]
    if count is None or (strides is None and len(call.inputs) > 3):
        raise Unsupported("the number of its slices and their strides must be known")
    steps = [1] * count if strides is None else [int(v) for v in strides.reshape(-1)]
    masks = {key: _mask(call, f"{key}_mask", count) for key in _MASKS}
    ellipsis = masks["ellipsis"].index(True) if True in masks["ellipsis"] else None
    entries = [e for e in range(count) if e != ellipsis and not masks["new_axis"][e]]
    cuts: list[_Cut] = []
    added: list[int] = []
    axis = place = 0
    for e in range(count):
        if e == ellipsis:
            axis += call.rank(0) - len(entries)
            place += call.rank(0) - len(entries)
        elif masks["new_axis"][e]:
            added.append(place)
            place += 1
        else:
            is_index = masks["shrink_axis"][e]
            step = 1 if is_index else steps[e]
            cuts.append(_Cut(e, axis, step, masks["begin"][e], masks["end"][e], is_index))
            axis += 1
            place += not is_index
    return cuts, added


_MASKS = ("begin", "end", "new_axis", "shrink_axis", "ellipsis")


def _mask(call: Call, key: str, count: int) -> list[bool]:
    given = [bool(v) for v in call.layer.integers(key, ())]
    return (given + [False] * count)[:count]


def _first(cut: _Cut) -> int | None:
    """Where an open begin is; None if the begin is given."""
    if not cut.begin_open:
        return None
    return 0 if cut.step > 0 else _MOST


def _last(cut: _Cut) -> int | None:
    if not cut.end_open and not cut.is_index:
        return None
    return _MOST if cut.step > 0 else _LEAST


def _limits(call: Call, index: int, cuts: Sequence[_Cut], fixed: Sequence[int | None]) -> str:
    """One limit for each cut: ``fixed``, or where that is None the entry of input ``index``."""
    if all(f is not None for f in fixed):
        return call.ints(*(f or 0 for f in fixed))
    entries = [cut.entry for cut in cuts]
    known = call.known(index)
    if known is not None:
        given = known.reshape(-1)
        limits = zip(entries, fixed, strict=True)
        return call.ints(*(int(given[e]) if f is None else f for e, f in limits))
    value = call.op("Gather", call.int64_list(index), call.ints(*entries))
    is_fixed = call.keep([f is not None for f in fixed], bool)
    return call.op("Where", is_fixed, call.ints(*(f or 0 for f in fixed)), value)


def _behind_indices(call: Call, starts: str, ends: str, cuts: Sequence[_Cut]) -> str:
    """``ends``, with those of single indices just behind their starts; the last is -1."""
    following = call.op("Add", starts, call.ints(1))
    is_last = call.op("Equal", following, call.ints(0))
    behind = call.op("Where", is_last, call.ints(_MOST), following)
    is_index = call.keep([cut.is_index for cut in cuts], bool)
    return call.op("Where", is_index, behind, ends)


@layer("Gather", 1, 7, 8)
def gather(call: Call) -> str:
    """Indices count from the end where negative, which before version 8 are not allowed."""
    (axis,) = call.fixed_ints(2, "axis")
    if call.layer.integer("batch_dims", 0) != 0:
        raise Unsupported("batch_dims is not supported")
    return call.op("Gather", *call.inputs[:2], axis=axis)


@layer("GatherElements", 6)
def gather_elements(call: Call) -> str:
    return call.op("GatherElements", *call.inputs[:2], axis=call.layer.integer("axis"))


@layer("ShapeOf", 1)
def shape_of_1(call: Call) -> str:
    return call.op("Shape", call.inputs[0])


@layer("ShapeOf", 3)
def shape_of(call: Call) -> str:
    shape = call.op("Shape", call.inputs[0])
    if "output_type" not in call.layer.data:
        return shape
    return call.cast(shape, layer_dtype(call.layer, "output_type"))


@layer("Reshape", 1)
def reshape(call: Call) -> str:
    """With special_zero a 0 stands for the input's own size, as in ONNX without allowzero."""
    special = call.layer.truth("special_zero")
    pattern = call.known(1)
    if call.inputs[0] in call.draft.integers and pattern is not None and (pattern > 0).all():
        return reshape_weights(call, 0, [int(v) for v in pattern])
    return call.op("Reshape", call.inputs[0], call.int64_list(1), allowzero=int(not special))


@layer("Squeeze", 1, 15)
def squeeze(call: Call) -> str:
    if len(call.inputs) < 2:
        return call.op("Squeeze", call.inputs[0])
    return call.op("Squeeze", call.inputs[0], call.int64_list(1))


@layer("Unsqueeze", 1)
def unsqueeze(call: Call) -> str:
    return call.op("Unsqueeze", call.inputs[0], call.int64_list(1))


@layer("Transpose", 1)
def transpose(call: Call) -> str:
    order = call.fixed_ints(1, "order")
    perm = order or tuple(reversed(range(call.rank(0))))
    return call.op("Transpose", call.inputs[0], perm=perm)


@layer("Tile", 1)
def tile(call: Call) -> str:
    """Whichever has fewer entries, the shape or the repeats, gets ones in front."""
    repeats = call.fixed_ints(1, "repeats")
    value, missing = call.inputs[0], len(repeats) - call.rank(0)
    if missing > 0:
        value = call.op("Unsqueeze", value, call.ints(*range(missing)))
    return call.op("Tile", value, call.ints(*(1,) * -missing, *repeats))


@layer("Broadcast", 1, 3)
def broadcast(call: Call) -> str:
    mode = call.choice("mode", ("numpy", "explicit", "bidirectional"), "numpy")
    target = call.int64_list(1)
    if mode != "explicit":
        return call.op("Expand", call.inputs[0], target)
    axes = call.fixed_ints(2, "axes mapping")
    rank = call.shape(1)[0]
    if rank is None:
        raise Unsupported("the rank of its result must be known")
    if tuple(sorted(axes)) != axes:
        raise Unsupported("its axes mapping must be ascending")
    new = [axis for axis in range(rank) if axis not in axes]
    value = call.op("Unsqueeze", call.inputs[0], call.ints(*new)) if new else call.inputs[0]
    return call.op("Expand", value, target)


@layer("Pad", 1, 12)
def pad(call: Call) -> str:
    mode = call.choice("pad_mode", ("constant", "edge", "reflect", "symmetric"))
    if mode == "symmetric":
        return _symmetric(call)
    pads = call.op("Concat", call.int64_list(1), call.int64_list(2), axis=0)
    begin, end = call.known(1), call.known(2)
    if begin is not None and end is not None:
        pads = call.ints(*(int(v) for v in (*begin.reshape(-1), *end.reshape(-1))))
    value = call.inputs[3:4] if mode == "constant" else ()
    return call.op("Pad", call.inputs[0], pads, *value, mode=mode)


def _symmetric(call: Call) -> str:
    """Mirrored with the border: pieces of the input, backwards, on both of its sides."""
    value = call.inputs[0]
    begins, ends = call.fixed_ints(1, "padding"), call.fixed_ints(2, "padding")
    if min((*begins, *ends), default=0) < 0:
        raise Unsupported("negative padding with pad_mode 'symmetric'")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        pieces = [value]
        if begin:
            pieces.insert(0, _backwards(call, value, axis, begin - 1, _LEAST))
        if end:
            pieces.append(_backwards(call, value, axis, -1, -end - 1))
        if len(pieces) > 1:
            value = call.op("Concat", *pieces, axis=axis)
    return value


def _backwards(call: Call, value: str, axis: int, start: int, end: int) -> str:
    limits = (call.ints(v) for v in (start, end, axis, -1))
    return call.op("Slice", value, *limits)


@layer("DepthToSpace", 1)
def depth_to_space(call: Call) -> str:
    mode = {"blocks_first": "DCR", "depth_first": "CRD"}[
        call.choice("mode", ("blocks_first", "depth_first"))
    ]
    size = call.layer.integer("block_size", 1)
    return call.op("DepthToSpace", call.inputs[0], blocksize=size, mode=mode)


@layer("Range", 1, 4)
def range_(call: Call) -> str:
    given = "output_type" in call.layer.data
    dtype = layer_dtype(call.layer, "output_type") if given else call.dtype(0)
    return call.op("Range", *(call.cast(name, dtype) for name in call.inputs[:3]))


@layer("Identity", 16)
def identity(call: Call) -> str:
    return call.op("Identity", call.inputs[0])
