"""Figures as SVG: the same bytes for the same result, legible on light and on dark pages.

Lines and text that are neither data nor given a color of their own are drawn in an ink that
the page decides (``currentColor``); data is drawn in `PALETTE`, whose colors stand out from
white and from near-black alike.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from typing import Any

from experiments.harness.result import Result

PALETTE = ("#3d7fc1", "#c96a1e", "#2f8f5f", "#b8568c", "#7f6fc4", "#8a7a22")
"""Data colors with a contrast of at least 3 to both page backgrounds."""

PAGE_LIGHT, PAGE_DARK = "#ffffff", "#14171c"
INK_LIGHT, INK_DARK = "#1f2328", "#e4e7eb"

_INK = "#0a0b0c"  # stands for the page's own text color until the SVG is written
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_STANDALONE = (
    f"svg:root{{color:{INK_LIGHT}}}"
    f"@media(prefers-color-scheme:dark){{svg:root{{color:{INK_DARK}}}}}"
)

ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)


def style() -> dict[str, Any]:
    """Matplotlib settings that the figures are drawn under."""
    import cycler

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    inked += ("grid.color", "legend.edgecolor", "patch.edgecolor", "hatch.color")
    return {
        **dict.fromkeys(inked, _INK),
        "axes.prop_cycle": cycler.cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.15,
        "figure.facecolor": "none",
        "figure.figsize": (5.5, 3.4),
        "figure.constrained_layout.use": True,
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "font.size": 11,
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxlab",
    }


def render(draw: Callable[[Result], Mapping[str, Any]], result: Result) -> dict[str, str]:
    """Draw the figures of a result.

    Args:
      draw: maps the result to matplotlib figures by name; runs under `style`.
      result: handed to draw.

    Returns:
      SVG text by figure name, equal for equal results. The figures are closed.
    """
    import matplotlib
    from matplotlib import pyplot

    with matplotlib.rc_context(style()):
        figures = draw(result)
        try:
            return {name: _svg(figure) for name, figure in figures.items()}
        finally:
            for figure in figures.values():
                pyplot.close(figure)


def _svg(figure: Any) -> str:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=metadata)
    text = re.sub(re.escape(_INK), "currentColor", buffer.getvalue().decode("utf-8"))
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text, count=1))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")
    standalone = ElementTree.Element(f"{{{_SVG}}}style")
    standalone.text = _STANDALONE
    root.insert(0, standalone)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


_SHAPES = {"path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image", "use"}
_GROUPS = {"svg", "g", "defs", "clipPath", "marker", "symbol", "pattern", "mask"}
_PAINT = {"linearGradient", "radialGradient", "stop"}
_ALLOWED = _SHAPES | _GROUPS | _PAINT | {"text", "tspan", "title", "desc"}


def inline(svg: str, prefix: str, label: str) -> str:
    """Prepare an SVG file for a page that holds many: unique ids, nothing that acts or loads.

    Args:
      svg: text of the file.
      prefix: put before every id.
      label: what a screen reader says.

    Returns:
      An ``<svg>`` element that scales to its container.

    Raises:
      ValueError: when the text is not an SVG, or declares entities.
    """
    if "<!" in re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL):
        raise ValueError("the SVG has a document type or entities: draw it again")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"the SVG is not well formed: {error}") from error
    if root.tag != f"{{{_SVG}}}svg":
        raise ValueError("the file is not an SVG")
    _clean(root)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, prefix + value)
            elif key in ("href", f"{{{_XLINK}}}href"):
                if value.startswith("#"):
                    element.set(key, f"#{prefix}{value[1:]}")
                elif not value.startswith("data:image/png;base64,"):
                    del element.attrib[key]
            elif key.lower().startswith("on"):
                del element.attrib[key]
            elif "url(" in value.lower():
                element.set(key, _local_urls(value, prefix))
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element) -> None:
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag not in {f"{{{_SVG}}}{t}" for t in _ALLOWED}:
            element.remove(child)
        else:
            _clean(child)


def _local_urls(value: str, prefix: str) -> str:
    def replace(match: re.Match[str]) -> str:
        target = match.group(1).strip().strip("\"'")
        return f"url(#{prefix}{target[1:]})" if target.startswith("#") else "none"

    return re.sub(r"url\(([^)]*)\)", replace, value, flags=re.IGNORECASE)
