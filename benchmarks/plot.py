"""Curves over the share of zeros, as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 230, 20, 50
#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")


@dataclass(frozen=True)
class Curve:
    """Points (share of zeros, how many times as fast as without zeros)."""

    name: str
    points: Sequence[tuple[float, float]]
    bold: bool = False


def plot(curves: Sequence[Curve]) -> str:
    """The curves above the share of zeros, with a line where zeros gain nothing."""
    highest = int(max(y for curve in curves for _, y in curve.points)) + 1
    parts = [axis_x(share / 10) for share in range(0, 11, 2)]
    parts += [axis_y(gain, highest) for gain in range(highest + 1)]
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{at_x(x):.1f},{at_y(y, highest):.1f}" for x, y in curve.points)
        width = 4 if curve.bold else 2
        stroke = f'stroke="{colour}" stroke-width="{width}"'
        parts.append(f'<polyline points="{points}" fill="none" {stroke}/>')
        y = TOP + 20 * number + 10
        x = WIDTH - RIGHT + 15
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 25}" y2="{y}" {stroke}/>')
        parts.append(label(x + 32, y + 4, curve.name, "start"))
    parts.append(label(at_x(0.5), HEIGHT - 8, "zeros among the weights", "middle"))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="13"'
    body = "\n".join([f'<rect {size.split(" view")[0]} fill="#fff"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def at_x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def at_y(gain: float, highest: int) -> float:
    return HEIGHT - BOTTOM - gain / highest * (HEIGHT - TOP - BOTTOM)


def axis_x(share: float) -> str:
    return label(at_x(share), HEIGHT - BOTTOM + 20, f"{share:.0%}", "middle")


def axis_y(gain: int, highest: int) -> str:
    """A grid line, darker where the time is that of the dense kernel."""
    y, colour = at_y(gain, highest), "#888" if gain == 1 else "#ddd"
    ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
    return f'<line {ends} stroke="{colour}"/>\n' + label(LEFT - 8, y + 4, f"{gain}×", "end")


def label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
