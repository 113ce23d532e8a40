"""Draw the routers' differences from least_tokens in each scenario as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rl.evaluate.results import LEAST_TOKENS, EvaluationResults, ScenarioResults
from vidur.compare.figures import metric_title
from vidur.compare.statistics import PairedDifference

_METRICS = ("mean_e2e", "p99_ttft")
_COLORS = ("#2563eb", "#0d9488", "#c026a3", "#ea7317", "#7c3aed")
_BEST = "#94a3b8"
_INK, _SOFT, _GRID = "#0f172a", "#64748b", "#e2e8f0"
# Pixels: width of the names, of a panel and of the gap between panels; height of a row, above and below the rows.
_NAMES, _PANEL, _GAP, _ROW, _TOP, _BOTTOM = 92, 380, 28, 34, 64, 34
# Differences above this, in percent, are drawn at the edge.
_LIMIT = 60.0
# The colours of a page's theme that replace those of the file.
_THEME = {
    "#ffffff": "paper",
    "#f8fafc": "raised",
    _INK: "ink",
    _SOFT: "soft",
    _GRID: "edge",
    _BEST: "faint",
    **dict(zip(_COLORS, ("series-0", "series-2", "series-3", "series-1", "series-4"), strict=True)),
}
_FONT = "font-family='Inter, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class _Panel:
    """One metric's part of the chart, from `low` to `high` percent over _PANEL pixels from `left`."""

    left: float
    low: float
    high: float

    def x(self, percent: float) -> float:
        return self.left + (min(max(percent, self.low), self.high) - self.low) / (self.high - self.low) * _PANEL


def chart_svg(results: EvaluationResults) -> str:
    """Draw mean E2E and p99 TTFT.

    The learned router is a dot with its interval at each beta, the best heuristic is a diamond.
    """
    height = _TOP + _ROW * len(results.scenarios) + _BOTTOM
    width = _NAMES + 2 * _PANEL + _GAP + 20
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
        f"{_FONT} font-size='12'>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _legend(results),
    ]
    for row, point in enumerate(results.scenarios):
        y = _TOP + _ROW * row
        if row % 2 == 0:
            parts.append(f"<rect x='0' y='{y}' width='{width}' height='{_ROW}' fill='#f8fafc'/>")
        parts.append(_text(_NAMES - 10, y + _ROW / 2 + 4, point.scenario.name, "end", _INK))
    for index, metric in enumerate(_METRICS):
        left = _NAMES + index * (_PANEL + _GAP)
        rows = [_differences(results, point, metric) for point in results.scenarios]
        ends = [end for differences in rows for difference in differences for end in (difference.low, difference.high)]
        panel = _Panel(left, max(-100.0, min([-5.0, *ends]) - 2.0), min(_LIMIT, max([5.0, *ends]) + 2.0))
        parts += _axis(panel, metric, height)
        for row, differences in enumerate(rows):
            parts += _marks(panel, differences, _TOP + _ROW * row)
    return "\n".join([*parts, "</svg>"]) + "\n"


def themed(svg: str) -> str:
    """Give the chart the colours of its page, light or dark."""
    for color, name in _THEME.items():
        svg = svg.replace(f"'{color}'", f"'var(--{name})'")
    return svg


def _differences(results: EvaluationResults, point: ScenarioResults, metric: str) -> list[PairedDifference]:
    """Return the differences from least_tokens of the best heuristic, then of the learned router at each beta."""
    return [point.difference(router, LEAST_TOKENS, metric) for router in (point.best(metric), *results.ppo)]


def _axis(panel: _Panel, metric: str, height: int) -> list[str]:
    bottom = height - _BOTTOM
    parts = [_text(panel.left, _TOP - 10, f"{metric_title(metric)}, difference from {LEAST_TOKENS} (%)", "start", _INK)]
    step = next(step for step in (2, 5, 10, 20, 25, 50) if (panel.high - panel.low) / step <= 9)
    tick = -step * int(-panel.low // step)
    while tick <= panel.high:
        color = _SOFT if tick == 0 else _GRID
        x = panel.x(tick)
        parts.append(f"<line x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{bottom}' stroke='{color}'/>")
        parts.append(_text(x, bottom + 18, f"{tick:+d}" if tick else "0", "middle", _SOFT))
        tick += step
    return parts


def _marks(panel: _Panel, differences: Sequence[PairedDifference], top: float) -> list[str]:
    best, *learned = differences
    middle = top + _ROW / 2
    x = panel.x(best.mean)
    parts = [f"<path d='M{x:.1f} {middle - 7} l6 7 l-6 7 l-6 -7 z' fill='{_BEST}'/>"]
    for index, difference in enumerate(learned):
        y = middle + (index - (len(learned) - 1) / 2) * min(8.0, (_ROW - 10) / max(len(learned), 1))
        color = _COLORS[index % len(_COLORS)]
        low, high = panel.x(difference.low), panel.x(difference.high)
        parts.append(f"<path d='M{low:.1f} {y:.1f} H{high:.1f}' stroke='{color}' stroke-width='2'/>")
        parts.append(f"<circle cx='{panel.x(difference.mean):.1f}' cy='{y:.1f}' r='3.5' fill='{color}'/>")
    return parts


def _legend(results: EvaluationResults) -> str:
    parts, x = [], float(_NAMES)
    parts.append(f"<path d='M{x + 6} 13 l6 7 l-6 7 l-6 -7 z' fill='{_BEST}'/>")
    parts.append(_text(x + 18, 24, "best heuristic of the scenario", "start", _INK))
    x += 210.0
    for index, name in enumerate(results.ppo):
        parts.append(f"<circle cx='{x}' cy='20' r='4.5' fill='{_COLORS[index % len(_COLORS)]}'/>")
        parts.append(_text(x + 10, 24, name, "start", _INK))
        x += 110.0
    return "\n".join(parts)


def _text(x: float, y: float, text: str, anchor: str, color: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{color}'>{escape(text)}</text>"
