"""The report in a real browser, where there is one: nothing overflows, nothing is cut, nothing complains."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from neuromeld.report import render_frontier, render_report
from report.records import LEAST, everything

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

PROBE = """
<pre id="probe"></pre>
<script>
const seen = [];
addEventListener("error", event => seen.push(String(event.message)));
addEventListener("securitypolicyviolation", event => seen.push(event.violatedDirective));
addEventListener("load", () => {
  const page = document.documentElement;
  const box = element => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
  const open = document.querySelectorAll("details");
  open.forEach(details => { details.open = true; });
  const drawings = [...document.querySelectorAll("svg")];
  document.getElementById("probe").textContent = JSON.stringify({
    width: innerWidth,
    page: page.scrollWidth,
    outside: [...document.querySelectorAll("body *")]
      .filter(e => !e.closest(".scroll > *, pre > *, svg > *"))
      .filter(e => box(e)[2] > innerWidth + 0.5)
      .map(e => e.outerHTML.slice(0, 80)),
    sizes: drawings.map(e => [e.clientWidth, e.clientHeight]),
    smallest: Math.min(...drawings.flatMap(e => [...e.querySelectorAll("text")]
      .map(t => parseFloat(getComputedStyle(t).fontSize) * e.clientWidth / e.viewBox.baseVal.width))),
    cut: drawings.flatMap(e => [...e.querySelectorAll("text")].filter(t => {
      const [l, u, r, d] = box(t), [L, U, R, D] = box(e);
      return l < L - 1 || u < U - 1 || r > R + 1 || d > D + 1;
    }).map(t => t.textContent)),
    unreachable: [...document.querySelectorAll(".scroll")]
      .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "auto").length,
    background: getComputedStyle(document.body).backgroundColor,
    seen,
  });
});
</script>
</body>
"""


def look(page: str, folder: Path, width: int, *options: str) -> dict[str, Any]:
    """What a browser measures on the page in a window of this width."""
    assert "default-src 'none'" in page
    probed = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    (folder / "page.html").write_text(probed.replace("</body>", PROBE))
    # The window of a headless browser has a least width; a frame has none.
    frame = f'<iframe id="frame" src="page.html" style="border:0;width:{width}px;height:900px"></iframe>'
    copy = 'onload = () => { document.title = ""; const f = document.getElementById("frame").contentDocument;'
    copy += ' document.body.append(f.getElementById("probe").cloneNode(true)); }'
    (folder / "frame.html").write_text(f"<body>{frame}<script>{copy}</script></body>")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    measured: dict[str, Any] = json.loads(unescape(found))
    return measured


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("kind", ["least", "everything"])
def test_page_fits_the_window(kind, width, tmp_path):
    record = everything() if kind == "everything" else LEAST
    seen = look(render_report(record), tmp_path, width)
    assert seen["width"] == width
    assert seen["page"] == width
    assert seen["outside"] == []
    assert seen["unreachable"] == 0
    assert seen["seen"] == []
    assert seen["cut"] == []
    if kind == "everything":
        assert len(seen["sizes"]) == 22
        assert min(min(size) for size in seen["sizes"]) >= 100
        assert seen["smallest"] >= 9


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_of_frontiers_fits_the_window(width, tmp_path):
    point = {"parameters": 10**8, "standard_error": 0.01, "candidate": "<b>narrower</b> FFNs",
             "recipe": {"ffn": {"size": [1000] * 30}}, "passes": 12.5, "keep_option": "0.9,0.8,0.7"}  # fmt: skip
    points = []
    for k in (0.9, 0.8, 0.7):
        others = {"<u>news</u>-sample": 4 * (1 - k) ** 1.5}
        points.append(point | {"keep": k, "kept_ratio": k, "flops_ratio": k, "loss": others["<u>news</u>-sample"] / 2})
        points[-1] |= {"other_losses": others, "accuracy_lost": {"amount": 1 - k, "error": 0.01}}
        points[-1] |= {"figures": {"time of a request": k, "<s>task</s>": k}}
    facts = {"knee": 0.8, "out_of_reach": [0.1], "options": "--calibration self"}
    models = [
        {"model": name, "points": points, "original": {"time of a request": 1.0, "<s>task</s>": 1.0}} | facts
        for name in ("package:one", "models/<i>two</i>")
    ]
    page = render_frontier(models)
    assert "<b>narrower" not in page
    assert "<i>two" not in page
    assert "<u>news" not in page
    assert "<s>task" not in page
    seen = look(page, tmp_path, width)
    assert seen["page"] == seen["width"] == width
    assert (seen["outside"], seen["unreachable"], seen["seen"], seen["cut"]) == ([], 0, [], [])
    assert len(seen["sizes"]) == 2


def test_dark_is_dark_and_light_is_light(tmp_path):
    page = render_report(LEAST)
    assert look(page, tmp_path, 800)["background"] == "rgb(251, 251, 249)"
    assert look(page, tmp_path, 800, "--blink-settings=preferredColorScheme=0")["background"] == "rgb(20, 23, 26)"
