import re

import pytest
from matplotlib.figure import Figure

from experiments.harness import Result
from experiments.harness.figures import PAGE_DARK, PAGE_LIGHT, PALETTE, inline, render

RESULT = Result({}, facts={"curve": [1.0, 3.0, 2.0]})


def draw(result):
    figure = Figure()
    axes = figure.subplots()
    axes.plot(result.facts["curve"], marker="o")
    axes.fill_between([0, 1, 2], result.facts["curve"], hatch="//", alpha=0.4)
    axes.imshow([[0, 1], [2, 3]])
    axes.set(title="a < b", xlabel="x")
    return {"curve": figure}


def test_equal_results_give_equal_bytes_without_a_date():
    first, second = render(draw, RESULT)["curve"], render(draw, RESULT)["curve"]
    assert first == second
    assert "<dc:date>" not in first
    assert "<!DOCTYPE" not in first
    assert "a &lt; b" in first


def test_ink_follows_the_page_and_the_background_is_open():
    svg = render(draw, RESULT)["curve"]
    assert "currentColor" in svg
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"#(000000|ffffff|0a0b0c)\b", svg)
    assert PALETTE[0] in svg


def test_figures_are_closed():
    from matplotlib import pyplot

    def failing(result):
        return {"a": pyplot.subplots()[0], "b": None}

    before = pyplot.get_fignums()
    assert render(lambda result: {"a": pyplot.subplots()[0]}, RESULT)
    with pytest.raises(AttributeError):
        render(failing, RESULT)
    assert pyplot.get_fignums() == before


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("page", [PAGE_LIGHT, PAGE_DARK])
def test_data_colors_stand_out_from_both_pages(color, page):
    high, low = sorted((luminance(color), luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3


def test_inlined_figures_have_their_own_ids():
    svg = render(draw, RESULT)["curve"]
    one, two = inline(svg, "one-", "first"), inline(svg, "two-", "second")
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', one))
    assert used
    assert used <= ids[0]
    assert "<style" not in one
    assert 'aria-label="first"' in one


def test_nothing_in_an_inlined_figure_acts_or_loads():
    hostile = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
      onload="alert(1)"><script>alert(2)</script><foreignObject><p>x</p></foreignObject>
      <style>@import url(http://a.example/b.css)</style>
      <g onclick="alert(3)"><image xlink:href="http://a.example/c.png"/>
      <rect fill="url(http://a.example/d)" style="fill: URL( 'http://a.example/e' )"/>
      <use href="file:///etc/passwd"/><path d="M0 0" clip-path="url(#kept)"/></g></svg>"""
    clean = inline(hostile, "p-", "label")
    for word in ("alert", "script", "foreign", "example", "passwd", "onload", "onclick", "import"):
        assert word not in clean, word
    assert "url(#p-kept)" in clean


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>',
        "<svg",
        "<html/>",
        "",
    ],
)
def test_what_is_no_svg_is_refused(text):
    with pytest.raises(ValueError, match="SVG"):
        inline(text, "p-", "label")
