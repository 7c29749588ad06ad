import html
import json
import re
import shutil
import subprocess

import pytest

from experiments.harness.record import figure_path, record_path
from experiments.harness.report import write_report
from experiments.harness.runner import run_experiments
from tests.experiments.harness.toys import FIGURES, TOY


@pytest.fixture
def page(make_checkout):
    checkout = make_checkout(toy=TOY, figures_toy=FIGURES, other=TOY, figures_other=FIGURES)
    run_experiments(["toy", "other"], "paper", save=True, checkout=checkout)
    run_experiments(["toy"], seed=2, checkout=checkout)
    return write_report(checkout)


def test_the_page_opens_with_the_counts_and_the_scorecard(page):
    text = page.read_text(encoding="utf-8")
    assert text.index('id="summary"') < text.index('id="scorecard"') < text.index("<section")
    assert re.search(r"<strong>6</strong>\s*<span[^>]*>reproduced<", text)
    assert len(re.findall(r'<tr id="\w+-claim-', text)) == 10


def test_a_local_run_stands_beside_the_committed_one(page):
    text = page.read_text(encoding="utf-8")
    row = text[text.index('id="toy-claim-mean"') :].split("</tr>")[0]
    assert re.search(r'data-label="Measured"><strong>0.5 s<', row)
    local = row.split('data-label="Local run"')[1].split("</td>")[0]
    assert "0.625 s" in local
    assert "changed config" in local
    assert "changed config: seed = 2" in text
    other = text[text.index('id="other-claim-mean"') :].split("</tr>")[0]
    assert "0.625" not in other


def test_text_from_claims_tables_and_notes_is_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    for raw in ("<b>things</b> & compares", "<i>a</i>", "a note with <b>markup</b>", "is <free>"):
        assert raw not in text
        assert html.escape(raw, quote=False) in text


def test_ids_are_unique_and_references_resolve(page):
    text = page.read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', text)
    assert set(used) <= set(ids)


def test_the_page_is_complete_in_itself(page):
    text = page.read_text(encoding="utf-8")
    without_names = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    assert "http" not in without_names
    assert "@import" not in text
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]


def test_without_results_there_is_a_page_all_the_same(make_checkout, tmp_path):
    checkout = make_checkout(toy=TOY)
    text = write_report(checkout, tmp_path / "out").read_text(encoding="utf-8")
    assert "It has not been run yet" in text
    assert "Local run" not in text
    (checkout.folder / "toy.py").unlink()
    assert "no claims yet" in write_report(checkout).read_text(encoding="utf-8")


def test_only_local_results_still_show_their_figures(checkout):
    run_experiments(["toy"], checkout=checkout)
    text = write_report(checkout).read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "a local run" in text


def test_results_of_a_gpu_stand_behind_those_of_the_paper_preset(checkout):
    run_experiments(["toy"], "paper", save=True, checkout=checkout)
    assert "Preset paper" not in write_report(checkout).read_text(encoding="utf-8")
    for path in (checkout.results / "toy").glob("paper*"):
        copy = path.read_text(encoding="utf-8").replace('"preset": "paper"', '"preset": "gpu"')
        path.with_name(path.name.replace("paper", "gpu")).write_text(copy, encoding="utf-8")
    text = write_report(checkout).read_text(encoding="utf-8")
    assert text.index("Preset paper") < text.index("Preset gpu")
    assert text.count("<svg") == 4
    assert "--preset gpu</pre>" in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_broken_figure_names_its_file(checkout):
    run_experiments(["toy"], save=True, checkout=checkout)
    path = figure_path(checkout.results, "toy", "smoke", "growth")
    path.write_text("<svg")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        write_report(checkout)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be shown"):
        write_report(checkout)
    record_path(checkout.results, "toy", "smoke").write_text("{}")
    with pytest.raises(ValueError, match="no usable result"):
        write_report(checkout)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

PROBE = """<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
  script-src 'unsafe-inline'">
<script>
const loads = [];
addEventListener("securitypolicyviolation", event => loads.push(event.blockedURI));
addEventListener("error", event => document.documentElement.dataset.error = "yes", true);
addEventListener("load", () => {
  const overflows = e => e.getBoundingClientRect().right > innerWidth + 0.5;
  const own = e => !e.closest(".scroll, pre, svg, .scorecard thead");
  const rows = [...document.querySelectorAll("#scorecard tbody tr")];
  parent.postMessage({
    width: innerWidth, page: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("body *")].filter(e => own(e) && overflows(e)).length,
    rows: rows.filter(row => row.getBoundingClientRect().height > 10).length,
    figures: [...document.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect().width),
    loads,
    error: document.documentElement.dataset.error ?? null,
  }, "*");
});
</script>"""

FRAMES = """<script>
const seen = [];
addEventListener("message", event => {
  seen.push(event.data);
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
</script>
"""  # the browser's own window is never narrower than 500 px, a frame may be


def look(page, widths, tmp_path, extra=""):
    """Load the page in Chromium in frames of some widths; hand back what probes in it saw."""
    probed, frames = tmp_path / "probed.html", tmp_path / "frames.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("<head>", f"<head>{PROBE}").replace("<main>", f"<main>{extra}"))
    frame = '<iframe src="probed.html" width="{}" height="900" style="border:0"></iframe>'
    frames.write_text(FRAMES + "".join(map(frame.format, widths)))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
    flags += " --disable-background-networking --disable-component-update --disable-sync"
    flags += f" --enable-logging=stderr --user-data-dir={tmp_path / 'profile'} --dump-dom"
    command = [CHROMIUM, *flags.split(), frames.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {seen["width"]: seen for seen in json.loads(html.unescape(found.group(1)))}, console


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(page, tmp_path):
    by_width, console = look(page, [1280, 390], tmp_path)
    assert console == []
    assert set(by_width) == {1280, 390}
    for width, seen in by_width.items():
        assert (seen["page"], seen["wide"]) == (width, 0)
        assert (seen["rows"], len(seen["figures"])) == (10, 4)
        assert min(seen["figures"]) > 300
        assert (seen["loads"], seen["error"]) == ([], None)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_probe_sees_what_it_looks_for(page, tmp_path):
    bad = '<div style="width:700px">x</div><img src="absent.png"><script>nothing()</script>'
    by_width, console = look(page, [390], tmp_path, bad)
    seen = by_width[390]
    assert seen["page"] >= 700
    assert seen["wide"] == 1
    assert (len(seen["loads"]), seen["error"]) == (1, "yes")
    assert console
