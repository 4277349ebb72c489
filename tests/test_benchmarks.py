"""The benchmarks' own logic: what counts as equal, as best, as met; and that the report renders."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

# A package is tested without them too.
contest, gpu, report, targets, clock = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in ("contest", "gpu", "report", "targets", "clock")
)
Op, Rival, Setting = contest.Op, contest.Rival, contest.Setting

SETTING = Setting("path_points", "digits_28", threads=2)


def row(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "family": "path",
        "op": "path_points",
        "case": "imagenet_224",
        "variant": "",
        "layout": "contiguous",
        "dtype": "float32",
        "threads": 1,
        "device": "cpu",
        "same_bits": True,
        "moved_bytes": 40_000_000,
        "memory_bound": True,
        "seconds": {
            "native": [0.002, 0.002, 0.003],
            "native avx2": [0.003, 0.003, 0.003],
            "torch.lerp": [0.006, 0.005, 0.007],
            "torch.compile": [0.004, 0.004, 0.004],
            "captum's": [0.1, 0.1, 0.1],
            "copy": [0.0018, 0.0018, 0.0018],
        },
        "rivals": {"eager": ["torch.lerp"], "compile": ["torch.compile"], "peer": ["captum's"]},
    }
    return made | changes


def timed(**seconds: float) -> dict[str, list[float]]:
    return {name.replace("_", " "): [value] for name, value in seconds.items()}


# --- contests ------------------------------------------------------------------------------------


def op_of(result: torch.Tensor, rival: torch.Tensor, **more: Any) -> Op:
    return Op(
        "path",
        "path_points",
        "",
        data=lambda setting: None,
        ours=lambda d: lambda: result,
        rivals={"theirs": Rival(lambda d: lambda: rival, **more)},
        settings=[SETTING],
        moved=lambda d: 4096,
    )


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    contest._truth = None


def test_a_contest_gives_a_row() -> None:
    ones = torch.ones(1000)
    found = contest.contest(op_of(ones, ones.clone()), SETTING, clock.QUICK)
    assert {"theirs", "copy", "reference"} <= set(found["seconds"])
    assert found["rivals"] == {"eager": ["theirs"]}
    assert found["moved_bytes"] == 4096
    json.dumps(found)


def test_a_rival_with_another_result_is_not_timed() -> None:
    ones = torch.ones(1000)
    with pytest.raises(AssertionError, match="theirs is off by"):
        contest.contest(op_of(ones, ones * 1.001), SETTING, clock.QUICK)


def test_a_kernel_must_have_the_bits_of_the_reference() -> None:
    truth = torch.ones(8)
    op = op_of(truth, truth)
    assert contest.check(op, SETTING, "native", truth.clone(), (truth,))
    with pytest.raises(AssertionError, match="differs from the reference"):
        contest.check(op, SETTING, "native avx2", torch.nextafter(truth, truth + 1), (truth,))


def test_rivals_that_draw_are_compared_in_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, other = (torch.randn(100_000, generator=generator) for _ in range(2))
    op = op_of(truth, other, draws=True)
    contest.check(op, SETTING, "theirs", other, (truth,), draws=True)
    for wrong in (other + 0.1, other * 1.1):
        with pytest.raises(AssertionError, match="theirs has"):
            contest.check(op, SETTING, "theirs", wrong, (truth,), draws=True)


def test_every_op_that_is_benchmarked_has_a_setting_for_each_device() -> None:
    found = [op for family in contest.FAMILIES for op in contest.ops_of(family)]
    names = [op.name for op in found]
    assert len(set(names)) == len(names)
    for op in found:
        for device in ("cpu", "cuda"):
            settings = list(contest.settings_on(op, device))
            assert settings and len(set(settings)) == len(settings)
            assert all(setting.device == device for setting in settings)
            assert all(setting.op == op.name for setting in settings)


def test_contenders_take_turns() -> None:
    order: list[str] = []
    runs = {
        name: clock.Contender(lambda name=name: order.append(name), nullcontext) for name in "ab"
    }
    times = clock.race(runs, torch.device("cpu"), clock.Effort(seconds=0.01, fewest=4, most=4))
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}
    # Neither runs all its calls before the other's first.
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")


# --- targets -------------------------------------------------------------------------------------


def test_best_counts_compiled_pytorch_and_no_peer() -> None:
    assert targets.best_pytorch(row()) == "torch.compile"
    assert targets.best_of(row(), "eager") == "torch.lerp"
    assert targets.speed_up(row(), "torch.lerp") == pytest.approx(3.0)
    assert targets.of_copy(row()) == pytest.approx(0.9)


def test_a_target_is_met_by_its_worst_row() -> None:
    slow = row(case="digits_28", seconds=timed(native=0.001, copy=0.0005))
    reached = targets.worst("t", [row(), slow], targets.of_copy, 0.8, "%")
    assert reached.met is False
    assert reached.measured.startswith("50% at worst (path_points, digits_28, 1 thread); 1 of 2")
    assert targets.worst("t", [row()], targets.of_copy, 0.8, "%").met is True
    assert targets.worst("t", [], targets.of_copy, 0.8).met is None


def test_targets_of_no_rows_are_not_measured() -> None:
    for found in (*targets.cpu_targets([]), *targets.gpu_targets([])):
        assert found.met is None and found.measured == "not measured"


@pytest.mark.parametrize(("level", "name"), [("avx512", "native"), ("avx2", "native avx2")])
def test_instruction_sets_are_found_by_what_is_below_them(level: str, name: str) -> None:
    best = row(seconds=timed(native=1.0, native_baseline=3.0, native_avx2=2.0))
    assert targets.native_at(best, level) == name
    older = row(seconds=timed(native=1.0, native_baseline=3.0))
    assert targets.native_at(older, level) == {"avx512": "none", "avx2": "native"}[level]


# --- the report ----------------------------------------------------------------------------------

GPU_RESULT = {
    "machine_info": {"gpu": "Example GPU", "driver": "1.2", "commit": "abc", "date": "2026-01-01"},
    "stages": [
        {"name": "build", "result": "passed", "seconds": 60.0, "detail": ""},
        {"name": "memcheck", "result": "failed", "seconds": 5.0, "detail": "1 error"},
    ],
    "rows": [row(device="cuda", threads=2, same_bits=False)],
}


def written(folder: Path, name: str, result: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(result))
    return path


def test_the_report_has_what_was_measured(tmp_path: Path) -> None:
    slower = row(case="digits_28", seconds=timed(native=0.01) | {"torch.lerp": [0.005]})
    slower["rivals"] = {"eager": ["torch.lerp"]}
    result = {
        "machine_info": {"cpu": "Example CPU"},
        "measured": {"ops: path": {"commit": "abc", "date": "2026-01-01", "load_before": 0.1}},
        "ops": [row(), row(threads=2), slower],
    }
    text = report.rendered([written(tmp_path, "cpu-example.json", result)])
    assert "## Example CPU" in text
    # Threads side by side, the best named, the share of copy of both.
    assert (
        "| imagenet_224 | 2.000 ms | 2.00x torch.compile | 2.000 ms | 2.00x torch.compile |" in text
    )
    assert "90% / 90%" in text
    assert "| path_points | digits_28 | 1 | 10.000 ms | 0.50x | torch.lerp |" in text
    assert "missed" in text
    assert text.endswith("## GPU\n\nnot measured\n")


def test_the_report_of_a_gpu_has_stages_targets_and_rows(tmp_path: Path) -> None:
    text = report.rendered([written(tmp_path, "gpu-example.json", GPU_RESULT)])
    assert "### Example GPU" in text and "not measured\n" not in text.split("## GPU")[1][:20]
    assert "| memcheck | failed | 5 s | 1 error |" in text
    assert "2000.0 us | 3.00x torch.lerp | 2.00x | 50.00x captum's | 90% | close |" in text
    assert "| all ops: a geometric mean of at least 2x over the best eager PyTorch | 3.00x" in text


def test_the_stored_report_is_the_rendered_one() -> None:
    assert (ROOT / "benchmarks" / "README.md").read_text() == report.rendered(report.stored())


def test_the_report_of_a_server_tells_what_micro_batches_bring(tmp_path: Path) -> None:
    def loads(per_second: float) -> list[dict[str, float]]:
        each = {"per_second": per_second, "p50": 1.5, "p99": 3.25, "cpu": 0.5}
        return [{"clients": clients} | each for clients in (1, 64)]

    measured = {
        "options": {"n_steps": 20},
        "servers": {"micro-batches": loads(300.0), "one by one": loads(120.0)},
        "ratios": {"1": 1.0, "64": 2.5},
    }
    info = {"cpu": "Example CPU", "cores": 2, "torch": "2", "commit": "abc", "date": "2026-01-01"}
    result = {
        "machine_info": info,
        "max_batch": 32,
        "works": {"integrated_gradients": measured},
        "memory": {"requests": 10_000, "megabytes": [100.0, 101.0]},
        "overload": {"200": 17, "429": 111},
    }
    (tmp_path / "server").mkdir()
    text = report.rendered([written(tmp_path / "server", "example.json", result)])
    assert "## Server, Example CPU" in text and "17 with 200, 111 with 429" in text
    line = "| integrated_gradients, n_steps=20 | 64 | 300 | 1.5 ms | 3.2 ms | 0.5 ms | 120 |"
    assert f"{line} 1.5 ms | 3.2 ms | 2.50x (met) |" in text


# --- the GPU's stages ----------------------------------------------------------------------------


def test_a_stage_that_fails_or_hangs_does_not_stop_the_next(tmp_path: Path) -> None:
    stages = gpu.Stages("cpu", True, tmp_path)
    stages.loaded = True  # type: ignore[misc]

    def broken(limit: float) -> gpu.Outcome:
        raise ValueError("broken")

    def hanging(limit: float) -> gpu.Outcome:
        stages.call(sys.executable, "-c", "import time; time.sleep(60)", limit=0.5)
        return gpu.Outcome("passed")

    stages.run("broken", 10, broken)
    stages.run("hanging", 10, hanging)
    stages.run("fine", 10, lambda limit: gpu.Outcome("passed", "all well"))
    assert [stage["result"] for stage in stages.outcomes] == ["failed", "out of time", "passed"]
    assert stages.outcomes[0]["detail"] == "ValueError: broken"


def test_stages_without_kernels_fail(tmp_path: Path) -> None:
    stages = gpu.Stages("cuda", True, tmp_path)
    stages.loaded = False  # type: ignore[misc]
    stages.run("op tests", 10, lambda limit: gpu.Outcome("passed"))
    assert stages.outcomes[0]["result"] == "failed"


def test_counts_are_those_of_pytest(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuites><testsuite tests="9" failures="2" errors="1" skipped="3"/></testsuites>'
    )
    assert gpu.test_counts(path) == {"passed": 3, "failed": 3, "skipped": 3}


def test_figures_of_a_gpu_are_json(tmp_path: Path) -> None:
    assert json.loads(gpu.dumped(GPU_RESULT)) == GPU_RESULT


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_the_script_says_what_it_needs() -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    done = subprocess.run(
        ["bash", str(script)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is a CPU build" in done.stderr and len(done.stderr.splitlines()) == 1


# --- equal completeness error --------------------------------------------------------------------


def small_task(model: torch.nn.Module, rows: int = 3) -> Any:
    contenders = pytest.importorskip("throughput_contenders", reason="the benchmarks are not here")
    inputs = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return contenders.Task(model.eval(), inputs, torch.arange(rows))


def test_every_peer_integrates_a_linear_model_exactly() -> None:
    """Whatever the nodes are; and is asked for the right classes."""
    contenders = pytest.importorskip("throughput_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    task = small_task(model)
    everyone = contenders.contenders(3, True, ("fp32", "bf16"), (), 16)
    assert len({one.name for one in everyone}) == len(everyone)
    points = task.inputs.clone().requires_grad_()
    scores = model(points).gather(1, task.target[:, None]).sum()
    expected = torch.autograd.grad(scores, points)[0] * task.inputs
    for one in everyone:
        fine = contenders.Task(task.model, task.inputs, task.target, "gausslegendre", 12)
        if one.variant == contenders.TOLERANCE:
            fine = contenders.Task(task.model, task.inputs, task.target, "", 17, 0.5)
        found = contenders.made(one, fine)().to(expected.dtype)
        apart = float((found - expected).norm() / expected.norm())
        assert apart < (1e-5 if one.precision == "fp32" else 2e-2), one.name


def test_slopes_along_the_line_tell_what_attributions_add_up_to() -> None:
    bench = pytest.importorskip("bench_throughput", reason="the benchmarks are not here")
    contenders = pytest.importorskip("throughput_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.Tanh(), torch.nn.Flatten(),
        torch.nn.Linear(72, 5),
    )  # fmt: skip
    task = small_task(model)
    asked = []

    def gradient(rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return contenders.slopes(contenders.Contender(contenders.CAPTUM), task)(rows, target)

    line = bench.Line(gradient, task, 7)
    everyone = contenders.contenders(3, True, ("fp32",), (), 4)
    for one in everyone:
        if one.peer not in contenders.RULES or one.variant:
            continue
        for name, rule in contenders.RULES[one.peer].items():
            found = contenders.made(one, bench.of_steps(task, name, 6))()
            total = line.total(*rule(6))
            torch.testing.assert_close(found.double().flatten(1).sum(1), total, msg=one.name + name)
    assert max(asked) <= 7 and sum(asked) == 3 * len(line.known)
    question = bench.Question.of(model, task.inputs)
    line.task = task = contenders.Task(model, task.inputs, question.target)
    line.known.clear()
    rule, n_steps = bench.steps_needed(line, contenders.CAPTUM, question, 1e-3, (1, 2, 4, 8))
    found = contenders.made(everyone[2], bench.of_steps(task, rule, n_steps))()
    assert bench.of_most(question.gaps(found)) <= 1e-3
    assert bench.steps_needed(line, contenders.CAPTUM, question, 1e-9, (1, 2)) is None


def test_what_most_gaps_do_not_exceed() -> None:
    cases = pytest.importorskip("throughput_cases", reason="the benchmarks are not here")
    assert cases.of_most(torch.arange(1.0, 11.0)) == 10.0  # of ten nine intervals: the tenth
    assert cases.of_most(torch.tensor([3.0, 1.0])) == 3.0
    gaps = torch.zeros(101)
    gaps[:10] = 1.0
    assert cases.of_most(gaps) == 0.0


def test_the_report_of_metrics_tells_what_others_take(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "metric": "infidelity", "shape": [8, 3, 224, 224], "note": "a note",
        "seconds": {"ours": [0.1, 0.1, 0.1], "captum": [0.25, 0.2, 0.3]},
        "speedup": {"captum": 2.5},
    }  # fmt: skip
    info = {"cpu": "Example CPU", "cores": 2, "torch": "2", "captum": "1", "quantus": None}
    result = {"machine_info": info | {"commit": "abc", "date": "2026-01-01"}, "threads": 1}
    (tmp_path / "metrics").mkdir()
    text = report.rendered(
        [written(tmp_path / "metrics", "example.json", result | {"rows": [row]})]
    )
    assert "## Metrics, Example CPU" in text and "Quantus None" not in text
    line = "| infidelity | 8x3x224x224 | 100.00 ms | 250.00 ms |  |  | 2.50x |  |  | a note |"
    assert line in text and "captum 1, commit abc" in text
    result["machine_info"] |= {"saliency": "0.2.1"}
    row["seconds"]["PAIR"], row["speedup"]["PAIR"] = [0.5, 0.5, 0.5], 5.0
    text = report.rendered(
        [written(tmp_path / "metrics", "example.json", result | {"rows": [row]})]
    )
    assert "| 250.00 ms |  | 500.00 ms | 2.50x |  | 5.00x | a note |" in text
    assert "captum 1, PAIR's saliency 0.2.1, commit abc" in text


def test_some_models_that_are_measured_again_take_their_places() -> None:
    runner = pytest.importorskip("run", reason="the benchmarks are not here")

    def figures(**times: int) -> dict[str, Any]:
        rows = [{"case": name, "time": time} for name, time in times.items()]
        return {"cases": rows, "methods": rows[:1], "settings": {}}

    merged = runner.merged(figures(a=1, b=1, c=1), figures(d=2, b=2))
    assert merged["cases"] == figures(a=1, b=2, c=1, d=2)["cases"]
    assert merged["methods"] == figures(a=1, d=2)["cases"]


def test_what_is_measured_again_is_said_of_each_model() -> None:
    runner = pytest.importorskip("run", reason="the benchmarks are not here")
    runs: dict[str, Any] = {}
    runner.note(runs, "throughput", [], ["a", "b"], {"commit": "1"})
    runner.note(runs, "throughput", ["a"], ["a", "b"], {"commit": "2"})
    assert runs == {"throughput": {"commit": "1"}, "throughput: a": {"commit": "2"}}
    runner.note(runs, "throughput", ["b"], ["a", "b"], {"commit": "3"})
    assert runs == {"throughput: a": {"commit": "2"}, "throughput: b": {"commit": "3"}}
    runner.note(runs, "throughput", [], ["a", "b"], {"commit": "4"})
    assert runs == {"throughput": {"commit": "4"}}


def test_benchmarks_of_equal_completeness_run_and_are_a_section() -> None:
    bench = pytest.importorskip("bench_throughput", reason="the benchmarks are not here")
    cases = pytest.importorskip("throughput_cases", reason="the benchmarks are not here")
    section = pytest.importorskip("report_throughput", reason="the benchmarks are not here")
    net = cases.Case("net", cases.strided, (2, 3, 16, 16), 12, 2, False, True)
    late = cases.Case("late", cases.table, (2, 20), 12, 2, False)
    device = torch.device("cpu")
    *_, figures = bench.measured([net], device, float("inf"), False)
    *_, without = bench.measured([late], device, -1.0, False)
    figures["left_out"] = without["left_out"]
    figures = json.loads(json.dumps(figures))
    for part in figures["cases"][0]["tolerances"]:
        for row in part["rows"]:
            exact = row["group"].startswith("shap") or not row["seconds"]
            assert exact or row["gap"] <= 1.05 * part["tolerance"], row
    text = "\n".join(section.throughput_section(figures))
    assert "Left out, as there was no time: late." in text

    def figure(group: str, rate: float, **more: Any) -> dict[str, Any]:
        return {
            "group": group, "form": "8 rows", "rule": "gausslegendre", "n_steps": 12, "gap": 0.04,
            "distance": 0.0, "first_call": 0.5, "seconds": {"median": 2 / rate},
            "items_per_second": rate, **more,
        }  # fmt: skip

    nested = {"rule": "", "gradients": 10.5, "share_outside_model": 0.25}
    rows = [
        figure("ours, fp32", 12.0), figure("ours, fp32, tolerance", 15.0, **nested),
        figure("ours, bf16", 19.0), figure("captum, fp32", 10.0),
        {"group": "zennit, fp32", "gap": None, "seconds": None},
    ]  # fmt: skip
    figures["settings"]["bf16_instructions"] = ["avx512_bf16"]
    figures["cases"][0]["tolerances"][0]["rows"] = rows
    figures["methods"] = [
        {
            "case": "net", "shape": [2, 3, 16, 16], "method": "saliency",
            "rival": "captum, contiguous",
            "seconds": {"ours, fp32": {"median": 0.1}, "captum, contiguous": {"median": 0.2}},
        }
    ]  # fmt: skip
    figures["cases"][0]["peak_bytes"] = {"ours, fp32": 5_000_000}
    text = "\n".join(section.throughput_section(figures))
    assert "| net | 2x3x16x16 | 10.00 | not in 12 steps | 15.00 | 19.00 |" in text
    assert "| net | 1.50x (met) | 1.90x (missed) |" in text
    assert "| of the ImageNet-size ones | 1.50x (met) | 1.90x (missed) |" in text
    assert "10.5, nested" in text and "| net | 2x3x16x16 | 5 MB |" in text
    assert "| net | 2x3x16x16 | saliency | 20.0 (2.00x) | 10.0 | contiguous |" in text


# --- estimated gradients -------------------------------------------------------------------------


def test_every_version_of_a_likelihood_ratio_estimates_the_gradient() -> None:
    lr_contenders = pytest.importorskip("lr_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)).eval()
    image, copies = torch.rand(1, 3, 8, 8), 2000
    exact = model[1].weight[2].detach()
    for name in lr_contenders.contenders():
        estimate = lr_contenders.made(name, model, image, 2, copies)()
        assert estimate.shape == image.shape
        cosine = torch.nn.functional.cosine_similarity(estimate.flatten(), exact, 0)
        assert 0.88 < float(cosine) < 0.95, name  # theory: 0.915
        size = float(estimate.norm() / exact.norm())
        assert 1.02 < size < 1.17, name  # theory: 1.09


def test_figures_of_estimated_gradients_are_a_section() -> None:
    section = pytest.importorskip("report_likelihood_ratio", reason="the benchmarks are not here")
    medians = {"ours": 2.0, "model alone": 1.5, "PyTorch, 16 at a time": 5.0, "loop": 8.0}
    case = {
        "case": "net",
        "shape": [1, 3, 4, 4],
        "rival": "PyTorch, 16 at a time",
        "speed_up": 2.5,
        "share_outside_model": 0.25,
        "seconds": {name: {"median": value} for name, value in medians.items()},
    }
    settings = {"n_samples": 40, "sigma": 0.1, "dtype": "float32", "threads": 2, "rounds": 3}
    peaks = [{"contender": "ours", "n_samples": 96_000, "peak_bytes": 5_000_000}]
    text = "\n".join(
        section.likelihood_ratio_section(
            {"settings": settings, "cases": [case], "peak_bytes": peaks}
        )
    )
    assert "| net | 1x3x4x4 | 2.00 s | 5.00 s (16 at a time) | 2.50x | 1.50 s | 25% |" in text
    assert "| net | 8.00 s (4.00 of ours) |" in text
    assert "| ours | 96,000 | 5.0 MB |" in text


# --- guided climbs -------------------------------------------------------------------------------


def test_every_version_of_a_climb_finds_the_same_map() -> None:
    gg = pytest.importorskip("gg_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ).eval()
    images, target, climbs = torch.rand(2, 3, 8, 8), torch.tensor([0, 2]), gg.Climbs(4, 3, 0.5)
    names = gg.contenders(tuple(images.shape))
    assert len(names) == 6
    found = {name: gg.made(name, model, images, target, climbs)() for name in names}
    for name in names:
        torch.testing.assert_close(found[name], found[gg.ONE_BY_ONE], msg=name)


def test_figures_of_climbs_are_a_section() -> None:
    section = pytest.importorskip(
        "report_geometrically_guided", reason="the benchmarks are not here"
    )
    medians = {
        "ours": 0.02, "model alone": 0.015, "PyTorch, 4 inputs at a time, contiguous": 0.03,
        "a point and a step at a time": 0.2,
    }  # fmt: skip
    case = {
        "case": "net", "shape": [4, 1, 8, 8], "n_steps": 50, "n_ascent": 20,
        "rival": "PyTorch, 4 inputs at a time, contiguous", "speed_up": 1.5,
        "speed_up_over_loop": 10.0, "share_outside_model": 0.25,
        "seconds": {name: {"median": value} for name, value in medians.items()},
    }  # fmt: skip
    settings = {"dtype": "float32", "threads": 2, "rounds": 7, "agreement": 1e-3}
    text = "\n".join(section.geometrically_guided_section({"settings": settings, "cases": [case]}))
    assert (
        "| net | 4x1x8x8 | 51 x 20 | 20.0 ms | 200.0 ms | 10.00x (met) | 30.0 ms (4 inputs at a "
        "time, contiguous) | 1.50x | 15.0 ms | 25% |"
    ) in text


# --- Guided IG -----------------------------------------------------------------------------------


def test_every_version_of_guided_ig_takes_the_same_path() -> None:
    guided = pytest.importorskip("guided_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    ).eval()
    images, target = torch.rand(3, 3, 4, 4), torch.tensor([0, 3, 1])
    names = guided.contenders()
    expected = guided.made(names[0], model, images, target, 60)()
    for name in names[1:]:
        found = guided.made(name, model, images, target, 60)()
        torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-5)


def test_figures_of_guided_ig_are_a_section() -> None:
    section = pytest.importorskip("report_guided_ig", reason="the benchmarks are not here")
    medians = {
        "ours": 2.0,
        "model alone": 1.5,
        "PyTorch, topk": 5.0,
        section.PAIR: 12.0,
    }
    case = {
        "case": "net",
        "shape": [8, 3, 4, 4],
        "rival": "PyTorch, topk",
        "speed_up": 2.5,
        "speed_up_to_pair": 6.0,
        "share_outside_model": 0.25,
        "distance": 1e-15,
        "distance_of_float32": 1e-7,
        "seconds": {name: {"median": value} for name, value in medians.items()},
    }
    settings = {
        "n_steps": 200, "fraction": 0.25, "max_dist": 0.02, "dtype": "float32", "threads": 2,
        "rounds": 5,
    }  # fmt: skip
    for changes, cells in (
        ({}, "| 12.00 s | 6.00x (met) |"),
        ({"speed_up_to_pair": 4.0}, "| 12.00 s | 4.00x (missed) |"),
        ({"speed_up_to_pair": None}, "| not installed |  |"),
    ):
        rows = section.guided_ig_section({"settings": settings, "cases": [case | changes]})
        text = "\n".join(rows)
        assert cells in text
        assert "| 5.00 s (topk) | 2.50x | 1.50 s | 25% | 1e-15 | 1e-07 |" in text


# --- counterfactuals -----------------------------------------------------------------------------


def test_every_version_of_a_counterfactual_ends_with_the_same_particles() -> None:
    pytest.importorskip("diffusers", reason="the prior needs diffusers")
    contenders = pytest.importorskip("cf_contenders", reason="the benchmarks are not here")
    from diffusers import DDPMScheduler, UNet2DModel

    from pyxai_fast.priors import DiffusionPrior

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=2,
        block_out_channels=(4, 4), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, add_attention=False,
    )  # fmt: skip
    prior = DiffusionPrior(unet, DDPMScheduler())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).eval()
    args = (model, prior, torch.rand(1, 1, 8, 8), 2, 12, 5)
    noise = contenders.key_noise(args[2], 12)
    ours = {
        name: contenders.made(name, *args)() for name in (contenders.OURS, contenders.OURS_DIAGONAL)
    }
    assert float((ours[contenders.OURS] - ours[contenders.OURS_DIAGONAL]).abs().max()) > 0.05
    for name, same, most in (
        (contenders.CAREFUL, contenders.OURS, 1e-4),
        (contenders.CAREFUL_DIAGONAL, contenders.OURS_DIAGONAL, 1e-4),
        (contenders.UNROUNDED, contenders.OURS_DIAGONAL, 1e-4),
        (contenders.RELEASED, contenders.OURS_DIAGONAL, 0.2),
    ):
        found = contenders.made(name, *args, noise)()
        assert found.shape == (12, 1, 8, 8)
        assert float((found - ours[same]).square().mean().sqrt()) < most, name


def test_figures_of_counterfactuals_are_a_section() -> None:
    section = pytest.importorskip("report_counterfactual", reason="the benchmarks are not here")
    text = "\n".join(
        section.counterfactual_section(
            {
                "settings": {
                    "n_particles": 100, "n_steps": 50, "dtype": "float32", "threads": 2,
                    "prior_parameters": 577_689,
                },
                "shape": [1, 1, 32, 32],
                "careful_rows": 34,
                "seconds": {"ours": {"median": 2.0}, "careful": {"median": 3.0}},
                "speed_up": {"careful": 1.5},
                "speed_up_short": {"careful": 2.5},
                "differences": {"careful": 0.001, section.UNROUNDED: 1e-6},
                "parts": {"prior": 1.75, "model": 0.25},
            }
        )
    )  # fmt: skip
    assert "| careful | 3.00 s | 1.50x | 2.50x | 1.0e-03 |" in text
    assert "denoises 34 particles, the fastest of several counts, at once" in text
    assert "577,689 parameters" in text and "prior 1.75 s, model 0.25 s" in text


# --- stick-breaking paths ------------------------------------------------------------------------


def test_every_version_of_stick_breaking_paths_has_the_same_mean() -> None:
    contenders = pytest.importorskip("sb_contenders", reason="the benchmarks are not here")
    bench = pytest.importorskip("bench_stick_breaking", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.SiLU(), torch.nn.Flatten(),
        torch.nn.Linear(36, 3),
    ).eval()  # fmt: skip
    image = torch.rand(1, 3, 8, 8) + 0.5
    maps = {
        name: contenders.made(name, model, image, 1, 100, 20)()
        for name in (contenders.OURS, *contenders.rivals())
    }
    ours = maps[contenders.OURS]
    for name, found in maps.items():
        bench.check(found, model, image, 1, name)
        assert float((found - ours).norm() / ours.norm()) < 0.1, name


def test_figures_of_stick_breaking_paths_are_a_section() -> None:
    section = pytest.importorskip("report_stick_breaking", reason="the benchmarks are not here")
    rival = "PyTorch, 16 at a time, contiguous"
    case = {
        "case": "net", "shape": [1, 3, 8, 8], "rival": rival, "speed_up": 1.5,
        "of_straight_line": 1.1,
        "seconds": {
            section.OURS: {"median": 2.0}, section.STRAIGHT: {"median": 1.8}, rival: {"median": 3.0}
        },
    }  # fmt: skip
    settings = {
        "n_paths": 50, "n_steps": 20, "alpha": 10.0, "dtype": "float32", "threads": 2, "rounds": 5
    }  # fmt: skip
    peaks = [
        {"contender": section.STRAIGHT, "n_paths": 1, "peak_bytes": 40_000_000},
        {"contender": "ours", "n_paths": 50, "peak_bytes": 41_000_000},
    ]
    text = "\n".join(
        section.stick_breaking_section({"settings": settings, "cases": [case], "peak_bytes": peaks})
    )
    assert "| net | 1x3x8x8 | 2.00 s | 3.00 s (16 at a time, contiguous) | 1.50x | 1.80 s |" in text
    assert "| ours | 50 | 1000 | 41.0 MB |" in text
    assert "50 paths take 1.02 of the straight line's peak; wanted is at most 1.2 (met)" in text


# --- other paths ---------------------------------------------------------------------------------


def test_every_version_of_blur_ig_finds_the_same_map() -> None:
    contenders = pytest.importorskip("path_contenders", reason="the benchmarks are not here")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.SiLU(), torch.nn.Flatten(),
        torch.nn.Linear(36, 3),
    ).eval()  # fmt: skip
    images, target = torch.rand(2, 3, 8, 8), torch.tensor([0, 2])
    calls = contenders.blur_calls(model, images, target, 12)
    expected = calls[contenders.OURS]()
    for name in contenders.careful_names():
        torch.testing.assert_close(calls[name](), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_every_version_of_diffig_draws_from_the_same_paths() -> None:
    """With noise of their own: what they add up to is the same."""
    contenders = pytest.importorskip("path_contenders", reason="the benchmarks are not here")
    from path_model_cases import classifier, images, path_model

    model, pixels, target = classifier(), images(), torch.tensor([0, 1, 2])
    calls = contenders.diffusion_calls(model, pixels, target, 32, 2, path_model())
    with torch.no_grad():
        way = (model(pixels) - model(torch.zeros_like(pixels))).gather(1, target[:, None])[:, 0]
    for name, call in calls.items():
        torch.testing.assert_close(call().flatten(1).sum(1), way, rtol=1e-2, atol=1e-2, msg=name)


def test_figures_of_other_paths_are_a_section() -> None:
    section = pytest.importorskip("report_path_methods", reason="the benchmarks are not here")
    rival, peer = "PyTorch, 8 at a time, contiguous", "PAIR saliency, image by image"
    case = {
        "case": "Blur IG", "what": "32 steps", "shape": [8, 3, 4, 4], "rival": rival,
        "speed_up": 1.5, "peers": {peer: 4.0},
        "gaps": {"ours": 1e-3, rival: 1e-3, peer: 2e-2},
        "seconds": {"ours": {"median": 2.0}, rival: {"median": 3.0}, peer: {"median": 8.0}},
    }  # fmt: skip
    settings = {"dtype": "float32", "threads": 2, "rounds": 5}
    text = "\n".join(section.path_methods_section({"settings": settings, "cases": [case]}))
    assert (
        "| Blur IG | 32 steps | 8x3x4x4 | 2.00 s | 1.0e-03 | 3.00 s (8 at a time, contiguous) | "
        "1.50x | PAIR saliency, image by image: 8.00 s, 4.00x, gap 2.0e-02 |"
    ) in text


# --- DAX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("contender", "norm"), [("Plain", "batch"), ("Careful", "sample")])
@pytest.mark.parametrize(
    ("n_queries", "held_out", "most"),
    [(8, 0.0, 1e-4), (27, 0.1, 1e-2)],  # a step, and three, where rounding decides at kinks
)
def test_every_version_of_dax_learns_the_same(
    contender: str, norm: str, n_queries: int, held_out: float, most: float
) -> None:
    contenders = pytest.importorskip("dax_contenders", reason="the benchmarks are not here")
    from pyxai_fast.distillation import DistillationRecipe

    recipe = DistillationRecipe(
        mask_norm=norm, filters=4, width=16, n_epochs=1, mask_epochs=(0, 0), batch_size=8,
        dropout=0.0, held_out=held_out,
    )  # fmt: skip
    queries = contenders.problem(1, 32, n_queries, 9)
    kind = getattr(contenders, contender)
    assert contenders.apart_after_training(kind, queries, recipe) < most


def test_every_version_of_masked_pictures_is_the_same() -> None:
    contenders = pytest.importorskip("dax_contenders", reason="the benchmarks are not here")
    queries = contenders.problem(1, 24, 40, 7)
    for name, masked in contenders.maskings(queries).items():
        for rows in contenders.parts_of(40):
            assert torch.equal(masked(rows), queries.masked(rows)), name


def test_benchmarks_of_dax_run_and_are_a_section() -> None:
    bench = pytest.importorskip("bench_dax", reason="the benchmarks are not here")
    section = pytest.importorskip("report_dax", reason="the benchmarks are not here")
    figures = json.loads(json.dumps(bench.measured(bench.QUICK)))
    assert "60 queries about a picture 1x3x32x32" in "\n".join(section.dax_section(figures))
    seconds = {"ours": {"median": 0.1}, "torch.where": {"median": 0.3}, "a loop": {"median": 4.0}}
    figures["perturbation"] |= {
        "seconds": seconds, "rival": "torch.where", "speed_up": {"torch.where": 3.0, "a loop": 40.0}
    }  # fmt: skip
    figures["together"] |= {
        "count": 2, "steps": 5, "speed_up": 1.1,
        "seconds": {"together": {"median": 1.0}, "one by one": {"median": 1.1}},
    }  # fmt: skip
    ours = {"perturbation": 1.0, "making": 0.5, "epoch": 10.0, "step": {"median": 0.05}}
    careful = {"perturbation": 2.0, "making": 0.5, "epoch": 20.0, "step": {"median": 0.1}}
    figures["end_to_end"] |= {
        "rival": "careful", "parts": {"ours": ours, "careful": careful},
        "speed_up": {
            "release": {"equal epochs": 1.9, "as shipped": 3.5},
            "careful": {"equal epochs": 1.5, "as shipped": 2.5},
        },
    }  # fmt: skip
    text = "\n".join(section.dax_section(figures))
    assert "| torch.where | 0.300 s | 3.00x (best) |" in text
    assert "| a loop | 4.000 s | 40.00x (missed) |" in text
    assert "| 100.0 ms | 110.0 ms | 1.10x (met) |" in text
    assert "| ours | 1.00 s | 0.50 s | 50.0 ms | 92 s | 52 s |" in text
    assert "| release | 1.90x (missed) | 3.50x (met) |" in text
    assert "| careful | 1.50x | 2.50x |" in text
