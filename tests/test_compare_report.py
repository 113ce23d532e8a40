"""report.html of a sweep: what it holds, and what a browser makes of it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_pages import in_browser, page_and_charts, unpacked
from sweeps import SCHEDULERS, made_up_results

from vidur.compare.figures import METRICS
from vidur.compare.report import write_report
from vidur.compare.results import CellFailure, PointResults, Results
from vidur.compare.scenario import scenario_names
from vidur.compare.schedulers import every_scheduler

MEBIBYTE = 2**20
MINUS = "\N{MINUS SIGN}"
FAILURE = CellFailure("a93, 4 replicas, 60 % load", "lor", 2, "python -m vidur.main --x '<1>'", "no <memory>")


def written(tmp_path: Path, results: Results) -> tuple[str, dict[str, Any]]:
    """The page, and its data."""
    write_report(tmp_path / "report.html", results)
    page = (tmp_path / "report.html").read_text()
    data: dict[str, Any] = json.loads(unpacked(page, "sweep"))
    return page, data


def test_the_data_is_that_of_the_results(tmp_path: Path) -> None:
    results = made_up_results(failures=[FAILURE])
    _, data = written(tmp_path, results)
    assert data["schedulers"] == list(SCHEDULERS)
    assert [data["schedulers"][place] for place in data["learned"]] == ["ppo"]
    assert data["metrics"][data["metric"]]["title"] == "mean E2E"
    assert [point["load"] for point in data["points"]] == [0.6, 0.9, 0.6, 0.9]
    for point, its in enumerate(results.points):
        for scheduler, name in enumerate(SCHEDULERS):
            for place, metric in enumerate(METRICS):
                mean = its.mean(name, metric)
                assert mean is not None
                assert data["means"][point][scheduler][place] == pytest.approx([mean.mean, mean.half], rel=1e-3)
                found = results.comparison(its, name, metric)
                row = data["differences"][point][scheduler][place]
                if name == "round_robin":
                    assert found is None and row is None
                    continue
                assert found is not None
                assert row[:2] == pytest.approx([found.difference.mean, found.difference.half], rel=1e-3)
                assert row[2] == found.verdict
    cell = data["cells"][0][1]
    assert [run["seed"] for run in cell["runs"]] == [0, 1, 3, 4], "the failed one is not there"
    assert cell["runs"][2]["command"] == "python -m vidur.main --seed 3 --router 'lor'"
    records = results.points[0].records["lor"].values()
    assert cell["placements"] == sum(record.placements for record in records).tolist()  # type: ignore[attr-defined]
    assert len(cell["runs"][0]["load"]) == 4 and len(cell["runs"][0]["load"][0]) == 60
    assert len(cell["quantiles"]["ttft"]) == len(data["probabilities"])


def test_names_errors_and_commands_are_escaped(tmp_path: Path) -> None:
    page, _ = written(tmp_path, made_up_results(failures=[FAILURE]))
    assert "<h1>Made up &lt;b&gt;</h1>" in page
    assert "no &lt;memory&gt;" in page
    assert "python -m vidur.main --x &#x27;&lt;1&gt;&#x27;" in page
    assert "a93, 4 replicas, 60 % load: 1 simulation failed" in page


def test_a_page_loads_nothing(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", made_up_results())
    head, _ = page_and_charts(tmp_path / "report.html")
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:)?//", head)


def test_a_large_sweep_stays_small(tmp_path: Path) -> None:
    """All the schedulers in 24 scenarios of 8 replicas with 3 seeds: no more than plotly.js and three MiB."""
    names = scenario_names()[:12]
    schedulers = [*every_scheduler()][:14]
    results = made_up_results(schedulers, names, num_replicas=8, seeds=3)
    # As the suite leaves schedulers out of points.
    del results.points[0].records[schedulers[3]]  # type: ignore[attr-defined]
    page, data = written(tmp_path, results)
    assert len(data["points"]) == 24
    assert data["cells"][0][3] == {"quantiles": {"ttft": [], "tpot": [], "e2e": []}, "placements": [], "runs": []}
    # Random loads are the worst there is to compress.
    loads = sum(len(run["load"]) for cells in data["cells"] for cell in cells for run in cell["runs"])
    assert loads == (24 * len(schedulers) - 1) * 3 * 8
    assert len(page) < 8 * MEBIBYTE


def test_later_seeds_have_no_picture_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidur.compare.report._MOST_LOADS", 2 * 4 * 4 * 4 * 60)
    _, data = written(tmp_path, made_up_results())
    assert [["load" in run for run in cell["runs"]] for cell in data["cells"][0]] == [[True] * 2 + [False] * 3] * 4


# In a browser.


def shown(tmp_path: Path, **address: str) -> str:
    return in_browser(tmp_path / "report.html", **address)


def texts(markup: str) -> list[str]:
    return [html.unescape(re.sub(r"<[^>]*>", "", text)) for text in re.findall(r"<td[^>]*>.*?</td>", markup, re.DOTALL)]


def _verdict(results: Results, its: PointResults, scheduler: str) -> str:
    found = results.comparison(its, scheduler, "mean_e2e")
    assert found is not None
    return found.verdict


@pytest.mark.slow
def test_a_browser_shows_the_matrix_and_a_cell(tmp_path: Path) -> None:
    results = made_up_results()
    written(tmp_path, results)
    page = shown(tmp_path)
    matrix = page.partition('id="matrix"')[2].partition("<section>")[0]
    cells = texts(matrix)
    comparison = results.comparison(results.points[0], "lor", "mean_e2e")
    assert comparison is not None and comparison.verdict == "win"
    assert cells[:2] == ["4", "60 %"]
    assert cells[3] == f"{comparison.difference.mean:+.1f}".replace("-", MINUS)
    assert re.search(r'<td class=" best" style="background:rgba\(13,124,110', matrix), "lookahead is best, and a win"
    wins = [sum(_verdict(results, its, name) == "win" for its in results.points) for name in results.others]
    assert cells[-6:] == [*map(str, wins), "", "", ""]
    assert "id=\"command\">python -m vidur.main --seed 0 --router 'ppo'<" in page
    for plot in ("load0", "cdf-ttft", "cdf-tpot", "cdf-e2e", "replicas", "placements"):
        assert re.search(
            rf'id="{plot}"[^>]*class="plot js-plotly-plot|class="plot js-plotly-plot"[^>]*id="{plot}"', page
        )


@pytest.mark.slow
def test_an_address_names_a_view(tmp_path: Path) -> None:
    written(tmp_path, made_up_results(failures=[FAILURE]))
    point = "b88, 4 replicas, 90 % load"
    page = shown(tmp_path, metric="p99_ttft", point=point, scheduler="lor", seed="3")
    assert "id=\"command\">python -m vidur.main --seed 3 --router 'lor'<" in page
    assert "p99 TTFT: difference from round_robin" in page
