"""The benchmark of metrics runs, and its rows say what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

# A package is tested without them too.
bench = pytest.importorskip("bench_metrics", reason="the benchmarks are not here")


def test_a_quick_run_has_a_row_for_every_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.json"
    threads = torch.get_num_threads()
    try:
        bench.main(["--quick", "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    found: dict[str, Any] = json.loads(path.read_text())
    names = [row["metric"] for row in found["rows"]]
    assert len(names) == len(set(names)) == 11
    printed = capsys.readouterr().out
    for row in found["rows"]:
        assert bench.OURS in row["seconds"] and row["metric"] in printed
        assert set(row["speedup"]) == set(row["seconds"]) - {bench.OURS}
        assert all(each[0] > 0 for each in row["seconds"].values())
    assert set(found["missing"]) <= set(bench.PEERS)
    for name in found["missing"]:
        assert f"left out: {name}" in printed or f", {name}" in printed


def test_pairs_information_curves_have_the_areas_of_ours() -> None:
    pic = pytest.importorskip("saliency.metrics.pic", reason="PAIR's saliency is not installed")
    task = bench.task_of(bench.QUICK_CASE, torch.device("cpu"), bench.QUICK_SETTINGS)
    match = bench.of_information(task, {"saliency": pic})
    ours, theirs = (torch.as_tensor(match.calls[name]()) for name in (bench.OURS, "PAIR"))
    assert match.same and ours.shape == (2 * len(task.inputs),)
    # No picture is left out: all are judged whole by both.
    assert bool(ours.isfinite().all()) and bool(((ours > 0) & (ours < 1)).all())
    torch.testing.assert_close(theirs, ours.cpu(), rtol=0, atol=1e-9)


def test_contenders_of_a_metric_that_draws_nothing_agree() -> None:
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    task = bench.task_of(bench.QUICK_CASE, torch.device("cpu"), bench.QUICK_SETTINGS)
    for match in bench.of_maps(task, {"quantus": quantus}):
        values = {name: bench._mean(call()) for name, call in match.calls.items()}
        assert values["Quantus"] == pytest.approx(values[bench.OURS], rel=1e-3)
