# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The few SVG shapes that the plots need."""

from xml.sax.saxutils import escape

FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"


class Svg:
    def __init__(self, width, height):
        self._parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                       f'viewBox="0 0 {width} {height}" font-family="{FONT}">',
                       f'<rect width="{width}" height="{height}" fill="#ffffff"/>']

    def text(
        self, x, y, text, *, size, weight="normal", anchor="start", fill="#17202a", halo=False
    ):
        style = (
            ' stroke="#ffffff" stroke-width="4" paint-order="stroke" stroke-linejoin="round"'
            if halo
            else ""
        )
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'text-anchor="{anchor}" fill="{fill}"{style}>{escape(text)}</text>'
        )

    def box(self, x, y, width, height, fill, stroke="none"):
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
            f'fill="{fill}" stroke="{stroke}"/>'
        )

    def line(self, x1, y1, x2, y2, stroke, width=1.2):
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
            f'stroke-width="{width}"/>'
        )

    def disc(self, x, y, radius, fill):
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>')

    def finish(self):
        return "\n".join([*self._parts, "</svg>", ""])
