"""matplotlib figures as inline SVG that follows the page's colours, fonts and dark mode."""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

# Stand-ins that no other colour of a figure equals; each becomes a variable of the page's style sheet.
INK, LINE, HELP, HARM, PLAIN = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "ink", LINE: "line", HELP: "help", HARM: "harm", PLAIN: "plain"}
# The page sets the font; nothing refers to these numbered ids, and several figures on a page would repeat them.
_SUPERFLUOUS = (
    (r"font-family: [^;\"]*;? ?", ""),
    (r' id="[\w.]+_\d+"', ""),
    (r' transform="rotate\(-0 [^)]*\)"', ""),
    (r"\s*\n\s*", "\n"),
)


def new_figure(width: float, height: float) -> Figure:
    """Inches; 72 points each, and the page shows a point as 1.33 pixels."""
    return Figure(figsize=(width, height))


def tidy(axes: Axes, size: float = 8.5) -> None:
    """Only the lines that carry meaning, in the page's ink."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    axes.tick_params(colors=INK, labelsize=size, color=LINE)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(size)


def inline_svg(figure: Figure, alternative: str) -> Markup:
    """The figure as an element of the page.

    The same figure gives the same bytes. Text stays text: it is small, can be searched, and the reader's fonts know
    scripts that matplotlib's do not, hence no warning for glyphs that it misses.
    """
    stream = io.StringIO()
    settings: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "affinity"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.04, transparent=True)
    return Markup(_for_html(stream.getvalue(), alternative))  # matplotlib escapes the texts of its labels


def _for_html(document: str, alternative: str) -> str:
    """Without what only a file of its own needs: prolog, metadata, namespaces (all of them URLs), fonts, style."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href=", "href=")
    head, body = svg.split(">", 1)
    head = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", head)
    body = re.sub(r'data:image/png;base64,([^"]+)', _small_png, body)
    for pattern, replacement in _SUPERFLUOUS:
        body = re.sub(pattern, replacement, body)
    for colour, name in _VARIABLES.items():
        body = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{name})", body)
    return f'{head} role="img" aria-label="{escape(alternative)}">{body}'


def _small_png(uri: re.Match[str]) -> str:
    """The same picture with a palette instead of four bytes per pixel, where a palette holds its colours."""
    with Image.open(io.BytesIO(base64.b64decode(uri[1]))) as picture:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(np.int64), -1, 0)
    colours, pixels = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(colours) > 256:
        return uri[0]
    small = Image.fromarray(pixels.reshape(red.shape).astype(np.uint8))
    small.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes())
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
