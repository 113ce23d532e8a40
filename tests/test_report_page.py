"""The page kit: what it writes, and what a browser makes of it."""

from __future__ import annotations

import csv
import html
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_pages import in_browser, page_and_charts

from vidur.report import Chart, Markup, Page, Table
from vidur.report.chart import COLORS, HEAT, heat_map, layout, line
from vidur.report.page import page_path, with_shared

LINES = Chart(
    'Time & "money"', "two series", [line([1, 2], [3.5, 4], "a,b", COLORS[0]), line([1], [0], "c", "--ink/0.5")],
    layout("time (s)", "cost ($)"),
)  # fmt: skip
ROWS = [["x", "950 ms"], ["y", "1.2 s"], ["z", "-"], ["w", "1,001 µs"]]


def written(folder: Path, script: str = "") -> Path:
    page = Page("Kit <1>", [("Model", "a<b")], ["mind <this>"], script=script)
    page.add_cards([("Finished", "5 < 6", "of 7")])
    page.add_section("Curves & bars", "a < b", Markup("<i>own</i>"), LINES, Chart("Nothing", "", [], {}))
    heat = heat_map(["u", "v"], [0, 1], [[1.0, 2.0], [3.0, None]], 3.0, "%{z}")
    page.add_section("Heat", Chart("Heat", "a map", [heat], layout("x", "y")), Table(["Name", "Time"], ROWS))
    page.write(folder / "page.html")
    return folder / "page.html"


def test_texts_are_escaped_and_markup_is_not(tmp_path: Path) -> None:
    head, charts = page_and_charts(written(tmp_path))
    for text in (
        "Kit &lt;1&gt;",
        "a&lt;b",
        "mind &lt;this&gt;",
        "5 &lt; 6",
        "<p>a &lt; b</p>",
        "<i>own</i>",
        "Time &amp; &quot;money",
    ):
        assert text in head
    assert [len(chart["data"]) for chart in charts] == [2, 1]
    assert head.count("nothing was recorded") == 1
    assert charts[1]["data"][0]["colorscale"] == HEAT


def test_neither_the_kit_nor_a_page_imports_plotly(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vidur.report import Page\n"
        f"Page('x').write(Path({str(tmp_path / 'x.html')!r})); print('plotly' in sys.modules, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert (tmp_path / "x.html").stat().st_size < 3e6


def test_a_page_of_its_own_takes_the_kits_files() -> None:
    page = with_shared("<style>/* theme.css page.css */</style> /* other.css */ <script>/* theme.js */</script>")
    assert "--series-15" in page and "figcaption" in page and "switchTheme" in page and "/* other.css */" in page


@pytest.mark.parametrize(("output", "path"), [("a/b", "a/b/report.html"), ("a/b.html", "a/b.html")])
def test_output_is_a_folder_or_a_file(output: str, path: str) -> None:
    assert page_path(output) == Path(path)


@pytest.mark.slow
def test_a_browser_sorts_saves_hides_and_changes_colours(tmp_path: Path) -> None:
    script = """
    opened.then(() => {
      const show = (id, text) => document.body.prepend(element("pre", { id, textContent: text }));
      const names = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent).join("");
      const heading = column => document.querySelectorAll("thead button")[column];
      const orders = [1, 1, 0, 0].map(column => { heading(column).click(); return names(); });
      show("orders", orders.join(" "));
      show("saved", csv(pageRows()));
      const stroke = () => find("chart0").querySelector(".js-line").style.stroke;
      const before = stroke();
      find("theme").click();
      show("colours", `${before}|${stroke()}|${theme()}`);
      document.querySelector("#chart0").previousElementSibling.children[1].click();
      show("left", `${find("chart0").querySelectorAll(".js-line").length}`);
    });
    """
    dom = in_browser(written(tmp_path, script), theme="dark")
    shown = {name: html.unescape(text) for name, text in re.findall(r'<pre id="(\w+)">(.*?)</pre>', dom, re.DOTALL)}
    assert shown["orders"] == "yxwz wxyz wxyz zyxw"
    head, *rows = csv.reader(io.StringIO(shown["saved"]))
    assert head == ["title", "series", "x_name", "x", "y_name", "y", "value"]
    assert rows[:3] == [
        ['Time & "money"', name, "time (s)", x, "cost ($)", y, ""]
        for name, x, y in (("a,b", "1", "3.5"), ("a,b", "2", "4"), ("c", "1", "0"))
    ]
    assert ["Heat", "", "x", "u", "y", "1", "3"] in rows
    assert ["Heat", "y", "column", "Time", "", "1.2 s", ""] in rows
    dark, light, name = shown["colours"].split("|")
    assert dark == "rgb(110, 160, 255)" and light == "rgb(37, 99, 235)" and name == "light"
    assert shown["left"] == "1"
