"""Plots of one error against its bound, on a logarithmic scale, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "axis", "interval"]

_WIDTH, _HEIGHT, _PAD = 260, 22, 8
#: Decades shown below the smallest bound and above the largest.
_BELOW, _ABOVE = 4, 8
#: Fewer labels than decades where there are many.
_LABELS = 6


@dataclass(frozen=True)
class Scale:
    """Decades from ``low`` to ``high``; what is smaller or 0 lies on the left edge, what is larger on the right."""

    low: int
    high: int

    @staticmethod
    def of(errors: Sequence[float], bounds: Sequence[float]) -> "Scale":
        """Return the decades that hold the errors, as far as they are near the bounds: far off is far off."""
        limits = [math.log10(v) for v in bounds if math.isfinite(v) and v > 0] or [0.0]
        found = [*limits, *(math.log10(v) for v in errors if math.isfinite(v) and v > 0)]
        low, high = max(min(found), min(limits) - _BELOW), min(max(found), max(limits) + _ABOVE)
        return Scale(math.ceil(low) - 1, math.floor(high) + 1)

    def place(self, value: float) -> float:
        """Return the position of a value in pixels."""
        if self.beyond(value):
            return _WIDTH - _PAD / 2
        if value <= 0:
            return _PAD / 2
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _PAD + min(max(share, 0.0), 1.0) * (_WIDTH - 2 * _PAD)

    def beyond(self, value: float) -> bool:
        """Return whether a value is larger than the scale, or NaN."""
        return not value <= 10.0**self.high


def interval(scale: Scale, error: float, bound: float) -> str:
    """Draw the bound as a band from the left, and the error as a dot in it or beyond it."""
    at, end, middle = scale.place(error), scale.place(bound), _HEIGHT / 2
    wrong = not error <= bound
    said = f"error {error:.3g} ulp, bound {bound:.3g} ulp"
    beyond = f'<line class="beyond" x1="{end:.1f}" x2="{at:.1f}" y1="{middle}" y2="{middle}"/>' if wrong else ""
    dot = f'<circle class="{"wrong" if wrong else "right"}" cx="{at:.1f}" cy="{middle}" r="4"/>'
    if scale.beyond(error):
        tip, back = at + 3, at - 6
        dot = f'<path class="wrong" d="M{back:.1f} {middle - 5} L{tip:.1f} {middle} L{back:.1f} {middle + 5} Z"/>'
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f"<title>{said}</title>{_grid(scale, _HEIGHT)}"
        f'<rect class="band" x="0" y="{middle - 5}" width="{end:.1f}" height="10"/>'
        f'<line class="bound" x1="{end:.1f}" x2="{end:.1f}" y1="2" y2="{_HEIGHT - 2}"/>{beyond}{dot}</svg>'
    )


def axis(scale: Scale) -> str:
    """Return the labels over the plots of a table: powers of ten, in ulp."""
    step = -(-(scale.high - scale.low) // _LABELS)
    labels = "".join(
        f'<text x="{scale.place(10.0**k):.1f}" y="12" text-anchor="middle">{_power(k)}</text>'
        for k in range(scale.low, scale.high + 1, step)
    )
    size = f'viewBox="0 0 {_WIDTH} 16" width="{_WIDTH}" height="16"'
    return f'<svg class="plot axis" aria-hidden="true" {size}>{labels}</svg>'


def _grid(scale: Scale, height: int) -> str:
    step = -(-(scale.high - scale.low) // _LABELS)
    places = (scale.place(10.0**k) for k in range(scale.low, scale.high + 1, step))
    return "".join(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>' for x in places)


def _power(k: int) -> str:
    if -2 <= k <= 3:
        return f"{10.0**k:g}"
    shown = f"{k}" if k >= 0 else f"\N{MINUS SIGN}{-k}"
    return f'10<tspan dy="-4" font-size="8">{shown}</tspan>'
