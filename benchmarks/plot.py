"""Groups of horizontal bars as SVG text, readable on light and dark pages. The same input gives the same text."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 760, 150, 90
BAR, GAP, TOP = 13, 14, 34
STYLE = """text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 } .figure { font-size: 11px }
.axis { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    series: str
    colour: str
    value: float  # 1 is the full width
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    bars: list[Bar]


def draw(title: str, groups: list[Group]) -> str:
    """Bars of a series share a colour; a legend names them; dashed lines stand at 0, 25, ... 100 %."""
    colours = {bar.series: bar.colour for group in groups for bar in group.bars}
    span = WIDTH - LEFT - RIGHT
    parts, y = [legend(colours)], TOP + 24
    top = y
    for group in groups:
        middle = y + BAR * len(group.bars) / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle:g}" text-anchor="end">{escape(group.name)}</text>')
        for bar in group.bars:
            width = round(span * bar.value, 1)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:g}" height="{BAR - 2}" fill="{bar.colour}"/>')
            text = f"{bar.label} ({bar.value:.0%})"
            parts.append(f'<text class="figure" x="{LEFT + width + 5:g}" y="{y + BAR - 3}">{escape(text)}</text>')
            y += BAR
        y += GAP
    axis = "".join(axis_line(LEFT + span * quarter / 4, top - 6, y - GAP + 6, 25 * quarter) for quarter in range(5))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 14}" role="img" aria-label="{escape(title)}">'
    title_text = f'<text class="title" x="0" y="14">{escape(title)}</text>'
    return "\n".join([head, f"<style>{STYLE}</style>", title_text, axis, *parts, "</svg>", ""])


def legend(colours: dict[str, str]) -> str:
    parts, x = [], 0
    for name, colour in colours.items():
        parts.append(f'<rect x="{x}" y="{TOP - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text class="figure" x="{x + 15}" y="{TOP}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return "\n".join(parts)


def axis_line(x: float, top: float, bottom: float, percent: int) -> str:
    line = f'<line class="axis" x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{bottom:g}"/>'
    return line + f'<text class="figure" x="{x:g}" y="{bottom + 12:g}" text-anchor="middle">{percent} %</text>\n'
