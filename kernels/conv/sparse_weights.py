"""Weights without their zeros, as the sparse convolution (sparse.py) takes them.

Four tables of i32 (`M_BLOCKS`, `K_BLOCKS`, `SQUARES`, `PANELS`; a row ends where the next one
begins, so the first two have one row more), values (f32), and positions of lines in their K block
(u8). Values and positions stand in the order in which the kernel multiplies, panel after panel.

The end of a loop costs many products where the CPU did not expect it. So a panel's loops are few
and long: lines for one output alone go by turns, one for a, one for b, one for c, and so do lines
for ab, ac and bc. Of the latter each is given as many as all three have; the rest count as lines
for one output alone. And panels are made of outputs that have equally many weights, those with most
first: then turns leave little over, and a loop is about as long as the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.isa.target import target

#: Of each M block: its first K block and its first block of output channels.
M_BLOCKS = ("k_block", "block")
#: Of each K block: its first square, panel, value and position.
K_BLOCKS = ("square", "panel", "value", "position")
#: Of each square, which makes L lines: the block of input channels and the tap.
SQUARES = ("block", "tap")
#: Of each panel of outputs: its channels a, b and c, counted in the M block (the last one again
#: where that has no more); how many lines only a, only b and only c have weights for, by turns, and
#: how many more one of them alone; how many ab, ac and bc have, by turns; and how many all three.
PANELS = ("a", "b", "c", "alone", "more_a", "more_b", "more_c", "two", "three")
PANEL_BYTES = 4 * len(PANELS)
#: A last row for whoever looks one panel ahead.
NO_PANEL = np.zeros((1, len(PANELS)), np.int32)
#: Which outputs of a panel ab, ac and bc are. (So a is in the first two, b in the first and the
#: last, and c in the last two.)
FIRST, SECOND = np.array([0, 0, 1]), np.array([1, 2, 2])


@dataclass(frozen=True)
class KBlock:
    """What the outputs of an M block want of one K block of lines: rows of the tables, values and
    positions."""

    squares: np.ndarray
    panels: np.ndarray
    values: np.ndarray
    positions: np.ndarray

    @property
    def counts(self) -> tuple[int, ...]:
        return len(self.squares), len(self.panels), len(self.values), len(self.positions)


def compress(
    w: np.ndarray, problem: Conv2d, channels: int, most_squares: int, in_place: bool
) -> tuple[np.ndarray, ...]:
    """OC×IC/g×KH×KW weights as M_BLOCKS, K_BLOCKS, SQUARES, PANELS, values and positions, for
    M blocks of ``channels`` outputs and K blocks of up to ``most_squares`` squares."""
    m_blocks, k_blocks = [(0, 0)], []
    for begin in range(0, problem.OC, channels):
        end = min(problem.OC, begin + channels)
        k_blocks += k_blocks_of(w, problem, begin, end, most_squares, in_place)
        m_blocks.append((len(k_blocks), blocks(end)))
    begins = np.cumsum([(0, 0, 0, 0), *(k.counts for k in k_blocks)], axis=0)
    return (
        np.array(m_blocks, np.int32),
        begins.astype(np.int32),
        np.concatenate([k.squares for k in k_blocks]).astype(np.int32),
        np.concatenate([*(k.panels for k in k_blocks), NO_PANEL]).astype(np.int32),
        aligned(np.concatenate([k.values for k in k_blocks])),
        np.concatenate([k.positions for k in k_blocks]).astype(np.uint8),
    )


def k_blocks_of(
    w: np.ndarray, problem: Conv2d, begin: int, end: int, most_squares: int, in_place: bool
) -> list[KBlock]:
    """The K blocks of output channels ``begin`` … ``end``-1, of nearly equal size; one without
    squares if all weights are zero."""
    squares, lines = used_squares(w, problem, begin, end, in_place)
    count = max(1, -(-len(squares) // most_squares))
    edges = [len(squares) * i // count for i in range(count + 1)]
    return [
        KBlock(
            squares[first:last],
            *compress_lines(lines[:, first:last], first == 0, last == edges[-1]),
        )
        for first, last in pairwise(edges)
    ]


def used_squares(
    w: np.ndarray, problem: Conv2d, begin: int, end: int, in_place: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of SQUARES that output channels ``begin`` … ``end``-1 have weights for, and those
    weights: [OC][square][L]."""
    q, L = problem, target().lanes
    OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, q.KH * q.KW
    first_block = begin // OCg * ICg // L
    last_block = blocks(((end - 1) // OCg + 1) * ICg)
    dense = np.zeros((end - begin, (last_block - first_block) * L, taps), np.float32)
    for oc in range(begin, end):
        ic = oc // OCg * ICg - first_block * L
        dense[oc - begin, ic : ic + ICg] = w[oc].reshape(ICg, taps)
    lines = dense.reshape(len(dense), -1, L, taps).transpose(0, 1, 3, 2)
    block, tap = np.nonzero(in_place | (lines != 0).any(axis=(0, 3)))
    return np.column_stack([first_block + block, tap]), lines[:, block, tap]


def compress_lines(
    weights: np.ndarray, is_first: bool, is_last: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of PANELS, values and positions of a K block's [OC][square][L] weights. Panels without
    any are left out except in an M block's first and last K block, which begin and complete all
    sums. If it is both, it makes a few products for each output: then their order in memory counts.
    """
    weights = weights.reshape(len(weights), -1)
    used = weights != 0
    order = np.arange(len(used))
    if not (is_first and is_last):
        order = np.argsort(-used.sum(axis=1), kind="stable")
    panels = np.append(order, np.repeat(order[-1:], -len(order) % 3)).reshape(-1, 3)
    # [panel][a, b, c][line]
    used = used[panels]
    used[-1, 1:] &= (panels[-1, 1:] != panels[-1, :-1])[:, None]
    three = used.all(axis=1)
    two = used[:, FIRST] & used[:, SECOND] & ~three[:, None]
    turns = two.sum(axis=2).min(axis=1)
    two &= two.cumsum(axis=2, dtype=np.int16) <= turns[:, None, None]
    alone = used & ~(two[:, FIRST] | two[:, SECOND] | three[:, None])
    counts = alone.sum(axis=2)
    by_turns = counts.min(axis=1)
    more = counts - by_turns[:, None]
    threes = three.sum(axis=1)
    rows = np.column_stack([panels, by_turns, more, turns, threes])

    ones = counts.sum(axis=1)
    position_at, value_at = starts(ones + 3 * turns + threes), starts(ones + 6 * turns + 3 * threes)
    positions = np.empty(ones.sum() + 3 * turns.sum() + threes.sum(), np.uint8)
    values = np.empty(ones.sum() + 6 * turns.sum() + 3 * threes.sum(), np.float32)
    weights = weights[panels]

    panel, which, rank, line = ranked(alone)
    later = 3 * by_turns[panel] + starts(more)[panel, which] + rank - by_turns[panel]
    step = np.where(rank < by_turns[panel], 3 * rank + which, later)
    positions[position_at[panel] + step] = line
    values[value_at[panel] + step] = weights[panel, which, line]

    panel, which, rank, line = ranked(two)
    positions[(position_at + ones)[panel] + 3 * rank + which] = line
    step = (value_at + ones)[panel] + 6 * rank + 2 * which
    values[step] = weights[panel, FIRST[which], line]
    values[step + 1] = weights[panel, SECOND[which], line]

    panel, _, rank, line = ranked(three[:, None])
    positions[(position_at + ones + 3 * turns)[panel] + rank] = line
    step = (value_at + ones + 6 * turns)[panel] + 3 * rank
    for output in range(3):
        values[step + output] = weights[panel, output, line]

    kept = is_first | is_last | (counts.any(axis=1) | (turns + threes > 0))
    return rows[kept], values, positions


def ranked(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each True in [panel][which][line], these three, and how many come before it in its row:
    panel, which, rank and line."""
    counts = mask.sum(axis=2).ravel()
    row = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(row)) - starts(counts)[row]
    return *divmod(row, mask.shape[1]), rank, np.flatnonzero(mask) - row * mask.shape[2]


def starts(counts: np.ndarray) -> np.ndarray:
    """Where runs of so many elements begin, along the last axis."""
    return np.cumsum(counts, axis=-1) - counts
