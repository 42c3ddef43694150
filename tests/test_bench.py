"""The arithmetic of the figures, and that all can be measured; no test depends on a time."""

import json
import math
import subprocess
import sys

import pytest

from bench.figures import Figure, Report, table
from bench.rounds import BASE, TWIN, Run, is_steady, loops_for


def run_of(*rounds: tuple[float, float, float]) -> Run:
    return Run([{BASE: base, TWIN: twin, "case": case} for base, twin, case in rounds])


def test_ratios_are_taken_inside_a_round_and_the_median_over_rounds() -> None:
    # The machine slows down threefold in the last round; one round has an outlier.
    run = run_of((1.0, 1.0, 2.0), (1.0, 1.0, 50.0), (3.0, 3.0, 6.0))
    assert run.ratio("case") == 2.0
    assert run.difference("case") == 3.0
    assert run.seconds(BASE) == 1.0
    assert run.least("case") == 2.0


def test_the_base_is_the_mean_of_its_two_timings() -> None:
    assert run_of((0.8, 1.2, 2.0)).ratio("case") == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("pair", "steady"),
    [(1.0, True), (1.019, True), (1 / 1.019, True), (1.021, False), (0.979, False), (2.0, False)],
)
def test_a_run_whose_identical_cases_differ_does_not_count(pair: float, steady: bool) -> None:
    assert is_steady(pair) is steady
    assert run_of((1.0, pair, 1.0)).steady is steady


def test_a_block_has_as_many_operations_as_fill_it_and_at_least_one() -> None:
    assert loops_for(0.001, 0.015) == 15
    assert loops_for(1.0, 0.015) == 1
    assert loops_for(0.0, 0.015) == 1


def test_a_figure_is_met_at_its_target_and_has_no_verdict_without_one() -> None:
    assert Figure("a", 0.75, "x", 0.75).met is True
    assert Figure("a", math.nextafter(0.75, 1), "x", 0.75).met is False
    assert Figure("a", 9.0, "us").met is None


def test_the_table_names_figure_target_verdict_and_trouble() -> None:
    figures = (Figure("hit", 0.8, "x", 0.75), Figure("stale", 1.0, "x", 1.1))
    text = table([Report("redis", figures, 1.004, 2), Report("other", note="no server")])
    hit, stale = (line for line in text.splitlines() if line.startswith("  ") and "<=" in line)
    assert hit.split() == ["hit", "0.80", "<=", "0.75", "NO"]
    assert stale.split()[-1] == "yes"
    assert "A/A 1.004, run 2" in text
    assert "no server" in text


def test_a_figure_that_is_to_be_large_is_met_from_its_target_on() -> None:
    assert Figure("a", 1.5, "x", least=1.5).met is True
    assert Figure("a", math.nextafter(1.5, 0), "x", least=1.5).met is False
    text = table([Report("rows", (Figure("kept", 9_999, "", least=10_000),))])
    assert text.splitlines()[-1].split() == ["kept", "9,999", ">=", "10,000", "NO"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("scene", "peers"),
    [
        ("results:cached group", {"django-q2"}),
        ("results:writers", {"django-q2"}),
        ("results:rows", {"django-celery-results"}),
        ("results:large tables", {"django-celery-results"}),
    ],
)
def test_the_results_are_measured_beside_their_peers(scene: str, peers: set[str]) -> None:
    for package in ("cacheback", "psutil", *(peer.replace("-", "_") for peer in peers)):
        pytest.importorskip({"django_q2": "django_q"}.get(package, package))
    command = [sys.executable, "-m", "bench", "--quick", "--json", "--only", scene]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # A name chooses all that begin with it; the scene itself comes first.
    report = json.loads(done.stdout)["reports"][0]
    figures = {one["name"]: one for one in report["figures"]}
    assert figures, report["problem"] + done.stderr
    assert all(one["value"] > 0 for one in figures.values()), figures
    for peer in peers:
        assert any(peer in name for name in figures)
    assert any(one["target"] or one["least"] for one in figures.values())
    if scene == "results:writers":
        # A count, not a time: it holds on any machine.
        (kept,) = (one for one in figures.values() if one["least"])
        assert kept["value"] == kept["least"] == 400
