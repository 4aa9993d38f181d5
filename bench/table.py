"""The results of a run as a Markdown table and as a plot of the ratios."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log10

from jinja2 import Environment, StrictUndefined


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One result. `ratio` is dcsync's figure divided by the other tool's, so below 1 dcsync is ahead."""

    work: str
    against: str
    dcsync: str
    other: str
    ratio: float
    bar: float | None

    @property
    def met(self) -> bool:
        """Whether the target was met. A row without a target is only shown for comparison."""
        return self.bar is None or self.ratio <= self.bar


@dataclass(slots=True, kw_only=True)
class Table:
    """The results so far."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Add a row and print it."""
        self.rows.append(row)
        target = "" if row.bar is None else f"   target: {row.bar:g}"
        print(
            f"{'ok  ' if row.met else 'MISS'} {row.work + ' / ' + row.against:<72} "
            f"{row.dcsync:>9} / {row.other:>9} = {row.ratio:.3f}{target}",
            flush=True,
        )

    def markdown(self) -> str:
        """Return the table for a document."""
        lines = ["| Work | Compared with | dcsync | Other tool | Ratio | Target |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            target = "" if row.bar is None else f"{row.bar:g} {'met' if row.met else '**missed**'}"
            lines.append(
                f"| {row.work} | {row.against} | {row.dcsync} | {row.other} | {_short(row.ratio)} | {target} |"
            )
        return "\n".join(lines) + "\n"

    def plot(self) -> str:
        """Return an SVG with a bar for each ratio on a logarithmic scale, and a mark at its target."""
        width, left, top, step = 860, 440, 34, 24
        low, high = -3.0, 1.0

        def place(ratio: float) -> float:
            share = (min(max(log10(max(ratio, 1e-9)), low), high) - low) / (high - low)
            return round(left + share * (width - left - 70), 1)

        bars = [
            {
                "y": top + index * step,
                "words": f"{row.work} / {row.against}",
                "stop": place(row.ratio),
                "mark": None if row.bar is None else place(row.bar),
                "ratio": _short(row.ratio),
                "met": row.met,
            }
            for index, row in enumerate(self.rows)
        ]
        grid = [{"x": place(10.0**power), "words": f"{10.0**power:g}"} for power in range(int(low), int(high) + 1)]
        environment = Environment(undefined=StrictUndefined, autoescape=True)
        return environment.from_string(_SVG).render(
            width=width, height=top + step * len(bars) + 14, left=left, bars=bars, grid=grid, top=top
        )


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" font-family="sans-serif" font-size="12"
 role="img" aria-label="Ratios of dcsync to others, logarithmic; left of 1 is ahead">
<rect width="100%" height="100%" fill="#fff"/>
{%- for line in grid %}
<line x1="{{ line.x }}" x2="{{ line.x }}" y1="{{ top - 8 }}" y2="{{ height - 8 }}" stroke="#ddd"/>
<text x="{{ line.x }}" y="{{ top - 14 }}" text-anchor="middle" fill="#555">{{ line.words }}</text>
{%- endfor %}
{%- for bar in bars %}
<text x="{{ left - 8 }}" y="{{ bar.y + 13 }}" text-anchor="end" fill="#222">{{ bar.words }}</text>
<rect x="{{ left }}" y="{{ bar.y + 2 }}" width="{{ (bar.stop - left)|round(1) }}" height="15"
 fill="{{ '#2f6f8f' if bar.met else '#b3452c' }}"/>
<text x="{{ bar.stop + 5 }}" y="{{ bar.y + 14 }}" fill="#222">{{ bar.ratio }}</text>
{%- if bar.mark is not none %}
<line x1="{{ bar.mark }}" x2="{{ bar.mark }}" y1="{{ bar.y }}" y2="{{ bar.y + 19 }}" stroke="#222" stroke-width="2"/>
{%- endif %}
{%- endfor %}
</svg>
"""
