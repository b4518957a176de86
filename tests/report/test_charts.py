"""Charts: where a value lands, what is said, what is left out; and colours that can be told from the paper."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import neuromeld.drawing
from neuromeld.drawing.axes import linear, logarithmic, positions
from neuromeld.drawing.charts import Series, bars, heat_map, lines

STYLE = (Path(neuromeld.drawing.__file__).parent / "style.css").read_text()


@pytest.mark.parametrize("values", [[0.1, 0.29], [3.0, 3.0], [-2e-7, 5e-8], [0.0, 0.0], [1e6, 4.2e7], [-5.0, -1.0]])
@pytest.mark.parametrize("zero", [True, False])
def test_scale_holds_its_values_between_round_ends(values, zero):
    scale = linear(values, 100, 0, zero=zero)
    assert scale(scale.low) == 100
    assert scale(scale.high) == 0
    assert scale.low <= min(values) <= max(values) <= scale.high
    assert not zero or scale.low <= 0 <= scale.high
    assert 2 <= len(scale.ticks) <= 8
    steps = [b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps))


@pytest.mark.parametrize("values", [[0.203, 10.6], [1.0, 1.0], [2e-7, 5e-3], [5.0, 7.0]])
def test_orders_of_magnitude_are_evenly_apart(values):
    scale = logarithmic(values, 100, 0)
    assert scale(scale.low) == 100
    assert scale(scale.high) == 0
    assert scale.low <= min(values) <= max(values) <= scale.high
    assert scale.low > min(values) / 10
    middle = (scale.low * scale.high) ** 0.5
    assert scale(middle) == pytest.approx(50, abs=0.1)
    assert all(f"{tick:e}"[0] in "125" for tick in scale.ticks)


def test_positions_have_whole_ticks_inside_them():
    assert positions([0, 29], 0, 1).ticks == (0, 5, 10, 15, 20, 25)
    assert positions([3, 5], 0, 1).ticks == (3, 4, 5)


def drawn(chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


def test_line_is_broken_where_a_value_is_missing():
    series = Series("error", [(0, 1.0), (1, 2.0), (2, None), (3, 4.0), (4, float("nan")), (5, 1.0), (6, 1.5)])
    paths = drawn(lines("t", "x", "y", [series])).findall(".//polyline")
    assert [len(path.get("points").split()) for path in paths] == [2, 1, 2]


def test_line_needs_two_points_in_a_row():
    assert lines("t", "x", "y", [Series("s", [(0, 1.0), (1, None), (2, 1.0)])]) is None
    assert lines("t", "x", "y", []) is None
    assert lines("t", "x", "y", [Series("s", [(2, 1.0), (2, 3.0)])]) is None


def test_points_stand_in_proportion():
    (path,) = drawn(lines("t", "x", "y", [Series("s", [(0, 0.0), (1, 5.0), (2, 10.0)])])).findall(".//polyline")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in path.get("points").split())
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y0 > y2  # up is larger


def test_bars_have_the_length_of_their_values():
    chart = drawn(bars("t", "x", ["a", "b"], [("first", [1.0, None]), ("second", [2.0, 4.0])]))
    widths = [float(bar.get("width")) for bar in chart.findall(".//rect")]
    assert widths == pytest.approx([widths[2] / 4, widths[2] / 2, widths[2]], abs=0.1)
    assert "b: first –, second 4" in chart.find("svg").get("aria-label")  # noqa: RUF001
    assert bars("t", "x", ["a"], [("first", [None])]) is None


def test_heat_map_is_strongest_at_its_largest():
    chart = drawn(heat_map("t", "layer", [[0.0, 1.0], [0.5, float("nan")]]))
    cells = {(c.get("x"), c.get("y")): float(c.get("fill-opacity")) for c in chart.findall(".//g/rect")}
    assert cells == {("0", "0"): 0.06, ("1", "0"): 1.0, ("0", "1"): 0.53}


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear_rgb = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear_rgb, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_and_told_from_the_paper(scheme):
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    palette = colours(light) if scheme == "light" else colours(dark)
    for paper in ("paper", "card", "wash"):
        for text in ("ink", "soft", "c1"):
            assert contrast(palette[text], palette[paper]) >= 4.5, (text, paper)
    for line in ("c0", "c1", "c2", "c3", "heat"):
        assert contrast(palette[line], palette["paper"]) >= 3, line
