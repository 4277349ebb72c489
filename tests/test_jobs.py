"""Data sets are explained shard by shard, with the same bytes whatever happened on the way."""

from __future__ import annotations

import fcntl
import html
import io
import json
import math
import pickle
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from job_cases import draw, explain, explainer, files_of, network, pack  # noqa: E402
from pyarrow import parquet  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from pyxai_fast import jobs  # noqa: E402
from pyxai_fast.jobs import atomic_file  # noqa: E402
from pyxai_fast.jobs.progress import Lines, duration  # noqa: E402
from pyxai_fast.models.errors import MissingDependency  # noqa: E402


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw(tmp_path / "in", 10)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# ---------------------------------------------------------------- sources


def test_a_folder_is_searched_through_in_the_order_of_names(tmp_path: Path) -> None:
    draw(tmp_path / "b", 2)
    draw(tmp_path / "a" / "deep", 1)
    (tmp_path / "a" / "notes.md").write_text("no picture")
    (tmp_path / "a" / "._000.png").write_text("hidden")
    found = jobs.find_items(tmp_path)
    assert [item.key for item in found] == [
        str(tmp_path / name) for name in ("a/deep/000.png", "b/000.png", "b/001.png")
    ]
    assert all(item.size == Path(item.path).stat().st_size for item in found)


def test_patterns_are_matched_and_braces_written_out(pictures: Path) -> None:
    def names(pattern: str) -> list[str]:
        return [Path(item.path).name for item in jobs.find_items(str(pictures / pattern))]

    assert names("00[12].png") == ["001.png", "002.png"]
    assert names("{008..009}.png") == ["008.png", "009.png"]
    assert names("00{3,1}.png") == ["003.png", "001.png"]
    assert len(jobs.find_items(str(pictures.parent / "**" / "*.png"))) == 10


def test_lists_of_files_may_have_targets(pictures: Path, tmp_path: Path) -> None:
    paths = [str(pictures / "003.png"), str(pictures / "none.png")]
    (tmp_path / "list.txt").write_text("\n".join(paths) + "\n\n")
    plain = jobs.find_items(tmp_path / "list.txt")
    assert [(item.path, item.target) for item in plain] == [(path, None) for path in paths]
    assert plain[1].size is None
    parquet.write_table(pyarrow.table({"path": paths, "target": [3, 0]}), tmp_path / "list.parquet")
    assert [item.target for item in jobs.find_items(tmp_path / "list.parquet")] == [3, 0]


def test_members_of_tar_files_are_read_where_they_are(pictures: Path, tmp_path: Path) -> None:
    data = {name: (pictures / f"{name}.png").read_bytes() for name in ("000", "001")}
    tar = pack(
        tmp_path / "s-0.tar", {"a/x.png": data["000"], "a/x.cls": b"3", "y.PNG": data["001"]}
    )
    found = jobs.find_items(str(tmp_path / "s-{0..0}.tar"))
    assert [item.key for item in found] == [f"{tar}::a/x.png", f"{tar}::y.PNG"]
    for item, expected in zip(found, data.values(), strict=True):
        with tar.open("rb") as file:
            file.seek(item.offset or 0)
            assert file.read(item.size) == expected


def test_links_in_tar_files_are_followed_and_names_told_apart(
    pictures: Path, tmp_path: Path
) -> None:
    data = [(pictures / f"00{i}.png").read_bytes() for i in range(2)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for one in data:  # two of one name
            member = tarfile.TarInfo("x.png")
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
        link = tarfile.TarInfo("y.png")
        link.type, link.linkname = tarfile.LNKTYPE, "x.png"
        archive.addfile(link)
    found = jobs.find_items(tmp_path / "a.tar")
    assert [item.member for item in found] == ["x.png", "x.png#2", "y.png"]
    with (tmp_path / "a.tar").open("rb") as file:
        for item, expected in zip(found, [*data, data[1]], strict=True):
            file.seek(item.offset or 0)
            assert file.read(item.size) == expected


def test_folders_that_are_links_are_followed_and_not_for_ever(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "class").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    found = jobs.find_items(tmp_path / "in")
    assert [item.key for item in found] == [
        str(tmp_path / "in" / "class" / f"00{i}.png") for i in range(2)
    ]


def test_a_list_may_begin_with_a_byte_order_mark(pictures: Path, tmp_path: Path) -> None:
    text = f"{pictures / '000.png'}\r\n{pictures / '001.png'}\r\n"
    (tmp_path / "list.txt").write_bytes(text.encode("utf-8-sig"))
    assert all(item.size for item in jobs.find_items(tmp_path / "list.txt"))


def test_a_folder_of_tar_files_is_pointed_to(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    pack(tmp_path / "shards" / "0.tar", {"x.png": b""})
    with pytest.raises(ValueError, match=r"got none in (.*); its tar files are \1/\*\.tar"):
        jobs.find_items(tmp_path / "shards")


def test_what_is_named_twice_is_taken_once(pictures: Path) -> None:
    assert len(jobs.find_items([pictures, pictures / "000.png"])) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "must be there, got .*none, which is not"),
        ("*.jpg", None, r"must match files, got none for .*\*\.jpg"),
        ("a.tar", b"x" * 600, "must be a whole tar file"),
        ("a.tar.gz", b"", "must not be compressed"),
        ("a.txt", b"\n", "must hold pictures, got none in"),
        ("a.parquet", b"nonsense", "must be a parquet file"),
    ],
)
def test_sources_without_pictures_are_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"jobs: source {message}"):
        jobs.find_items(str(tmp_path / name))


def test_a_tar_file_that_was_cut_off_is_refused(pictures: Path, tmp_path: Path) -> None:
    data = (pictures / "000.png").read_bytes()
    tar = pack(tmp_path / "a.tar", {"0.png": data, "1.png": data})
    tar.write_bytes(tar.read_bytes()[: 512 + len(data) // 2])
    with pytest.raises(ValueError, match="must be a whole tar file"):
        jobs.find_items(tar)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a"]}, "must have the column path, got file"),
        ({"path": [None]}, "path must be text, got None in row 0"),
        ({"path": ["a"], "target": [-1]}, "target must be the number of a class, got -1"),
        ({"path": ["a", "b"], "target": [1, None]}, "a target for all pictures or for none"),
    ],
)
def test_tables_that_name_no_pictures_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=message):
        jobs.find_items(tmp_path / "list.parquet")


def test_items_are_what_they_were_before_they_were_written(tmp_path: Path) -> None:
    from pyxai_fast.jobs.items import Item, Items, digest, save_items

    written = [Item("a\udcff.png", size=1), Item("b.tar", "c.png", 512, 7, 3)]
    save_items(written, tmp_path)
    read = pickle.loads(pickle.dumps(Items(tmp_path)))
    assert list(read) == written and digest(read) == digest(written)
    assert digest(written) != digest([written[0], Item("b.tar", "c.png", 512, 8, 3)])


# ---------------------------------------------------------------- results


def test_results_are_those_of_the_explainer(pictures: Path, out: Path) -> None:
    summary = explain(pictures, out)
    assert (summary.items, summary.ok, summary.shards) == (10, 10, 3)
    assert summary.complete and summary.gradients == 10 * 8
    results = jobs.results(out)
    assert len(results) == 10 and [result.number for result in results] == list(range(10))
    made = explainer()
    for number in (0, 7):
        item = jobs.Items(out)[number]
        from pyxai_fast.jobs.reading import read_item

        alone = made(read_item(item, made.preprocessing)[None])
        result = results[number]
        assert result.path == item.key == str(pictures / f"{number:03d}.png")
        torch.testing.assert_close(result.attributions, alone.attributions[0])
        assert result.target == int(alone.target[0])
        assert result.class_name == "abcd"[result.target]
        assert result.probability == pytest.approx(
            float(alone.outputs[0].softmax(-1)[result.target])
        )
        assert result.delta == pytest.approx(float(alone.delta[0]), abs=1e-5)
        assert (result.height, result.width) == (16, 16)


def test_the_index_is_a_table(pictures: Path, out: Path) -> None:
    (pictures / "002.png").write_bytes(b"nonsense")
    explain(pictures, out)
    table = jobs.results(out).table()
    assert table["number"].to_pylist() == list(range(10))
    assert table["status"].to_pylist() == ["ok"] * 2 + ["bad"] + ["ok"] * 7
    assert table["shard"].to_pylist() == [0, 0, None, 0, 1, 1, 1, 1, 2, 2]
    assert table["row"].to_pylist() == [0, 1, None, 2, 0, 1, 2, 3, 0, 1]
    pytest.importorskip("pandas", reason="pandas is not installed")
    assert list(jobs.results(out).frame()["path"])[9] == str(pictures / "009.png")


def test_results_of_a_job_that_runs_are_those_of_shards_that_are_done(
    pictures: Path, out: Path
) -> None:
    with jobs.begin(explainer(), pictures, out, batch_size=2, shard_size=4) as begun:
        jobs.ShardWorker(begun.job).explain_shard(1)
    results = jobs.results(out)
    assert [result.number for result in results] == [4, 5, 6, 7]
    with pytest.raises(KeyError, match="item 0 is not explained yet"):
        results[0]
    with pytest.raises(IndexError, match="number must be from 0 to 9"):
        results[10]
    jobs.ShardWorker(begun.job).explain_shard(0)
    results.refresh()
    assert len(results) == 8


def test_half_the_space_is_taken_in_half_precision(pictures: Path, out: Path) -> None:
    explain(pictures, out / "whole")
    explain(pictures, out / "half", store="fp16")
    held = load_file(out / "half" / "shards" / "00000.safetensors")["attributions"]
    assert held.dtype == torch.float16
    whole, half = jobs.results(out / "whole")[3], jobs.results(out / "half")[3]
    assert half.attributions.dtype == torch.float32
    torch.testing.assert_close(half.attributions, whole.attributions, rtol=2**-11, atol=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1.0, 1e7])
def test_half_precision_keeps_maps_of_any_size(pictures: Path, out: Path, size: float) -> None:
    """Roundoff is that of float16, 2^-11, relative to each attribution down to 2^-28 of the
    largest."""
    module = network()
    with torch.no_grad():
        for parameter in list(module.parameters())[-2:]:
            parameter.mul_(size)
    made = explainer((16, 16), module)
    explain(pictures, out / "whole", made)
    assert explain(pictures, out / "half", made, store="fp16").ok == 10
    for whole, half in zip(jobs.results(out / "whole"), jobs.results(out / "half"), strict=True):
        expected = whole.attributions
        largest = float(expected.abs().max())
        assert largest > 0
        torch.testing.assert_close(
            half.attributions, expected, rtol=2**-11, atol=2**-28 * 2**-11 * largest
        )
        assert whole.scale == 1.0 and half.scale is not None
        assert math.log2(half.scale).is_integer()
        assert 2**14 <= largest / half.scale < 2**15


def test_standard_errors_share_the_scale_in_half_precision(pictures: Path, out: Path) -> None:
    made = explainer(gradient="likelihood_ratio")
    explain(pictures, out / "whole", made, limit=2)
    explain(pictures, out / "half", made, limit=2, store="fp16")
    for whole, half in zip(jobs.results(out / "whole"), jobs.results(out / "half"), strict=True):
        assert half.standard_error is not None
        torch.testing.assert_close(half.standard_error, whole.standard_error, rtol=2**-11, atol=0)


def test_standard_errors_are_kept_where_there_are_some(pictures: Path, out: Path) -> None:
    explain(pictures, out, explainer(gradient="likelihood_ratio"), limit=2)
    result = jobs.results(out)[1]
    assert result.standard_error is not None
    assert result.standard_error.shape == result.attributions.shape
    assert result.error is None or result.error > 0


def test_targets_of_a_list_are_explained(pictures: Path, tmp_path: Path, out: Path) -> None:
    paths = [str(pictures / f"{i:03d}.png") for i in range(6)]
    targets = [0, 1, 2, 3, 4, 1]
    parquet.write_table(
        pyarrow.table({"path": paths, "target": targets}), tmp_path / "list.parquet"
    )
    summary = explain(tmp_path / "list.parquet", out)
    assert (summary.ok, summary.bad) == (5, 1)
    table = jobs.results(out).table()
    assert table["target"].to_pylist() == [0, 1, 2, 3, None, 1]
    assert table["reason"].to_pylist()[4] == "target 4 is none of the 4 classes"
    with pytest.raises(ValueError, match="target must not be given where the pictures have"):
        explain(tmp_path / "list.parquet", tmp_path / "other", explainer(target=1))


def test_pictures_keep_their_sizes_where_the_model_takes_any(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "in" / "a", 3, (16, 20))
    draw(tmp_path / "in" / "b", 3, (24, 12))
    mixed = [tmp_path / "in" / side / f"{i:03d}.png" for i in range(3) for side in "ab"]
    made = partial(explainer, None)
    explain(mixed, out, made, batch_size=4)
    tensors = load_file(out / "shards" / "00000.safetensors")
    assert {name: list(held.shape) for name, held in tensors.items()} == {
        "attributions.16x20": [2, 3, 16, 20],
        "attributions.24x12": [2, 3, 24, 12],
    }
    results = jobs.results(out)
    assert [tuple(r.attributions.shape) for r in results] == [(3, 16, 20), (3, 24, 12)] * 3
    pixels = torch.rand(1, 3, 16, 20)
    assert made()(pixels).attributions.shape == pixels.shape
    # What a process explained before changes nothing.
    with jobs.begin(made, mixed, tmp_path / "again", batch_size=4, shard_size=4) as begun:
        jobs.ShardWorker(begun.job).explain_shard(1)
        jobs.ShardWorker(begun.job).explain_shard(0)
    shard = "shards/00001.safetensors"
    assert files_of(tmp_path / "again")[shard] == files_of(out)[shard]


# ---------------------------------------------------------------- the same bytes


def test_a_shard_is_the_same_whoever_explains_it_and_when(pictures: Path, tmp_path: Path) -> None:
    made = partial(explainer, method="smooth_grad", n_samples=4)
    explain(pictures, tmp_path / "a", made)
    options = {"batch_size": 2, "shard_size": 4}
    with jobs.begin(made, pictures, tmp_path / "b", **options) as begun:
        job = pickle.loads(pickle.dumps(begun.job))
        assert job.missing() == [0, 1, 2]
        for shard in (2, 0, 1):
            report = jobs.ShardWorker(job).explain_shard(shard)
            assert (report.shard, report.items) == (shard, len(job.items_of(shard)))
        assert job.missing() == []
    expected = files_of(tmp_path / "a")
    assert files_of(tmp_path / "b") == expected


def test_processes_that_read_ahead_change_nothing(pictures: Path, tmp_path: Path) -> None:
    (pictures / "001.png").write_bytes(b"nonsense")
    explain(pictures, tmp_path / "a", workers=0)
    explain(pictures, tmp_path / "b", workers=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_worker_takes_shards_as_they_come(pictures: Path, out: Path) -> None:
    done: list[int] = []
    with jobs.begin(explainer(), pictures, out, batch_size=2, shard_size=4) as begun:
        worker = jobs.ShardWorker(begun.job)
        reports = worker.explain(iter([1, 0]), done.append)
        assert [report.shard for report in reports] == [1, 0]
        assert done == [2, 2, 2, 2]
        assert worker.explain_shard(2).items == 2


class Killed(BaseException):
    """The end of a process, as far as files can tell."""


@pytest.mark.parametrize("last", range(0, 30, 3))
def test_nothing_that_is_done_is_lost_whenever_the_process_ends(
    pictures: Path, tmp_path: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(pictures, tmp_path / "a")
    flushes = 0
    flush = atomic_file._flush

    def dying(path: Path) -> None:
        nonlocal flushes
        flushes += 1
        if flushes > last:
            raise Killed
        flush(path)

    out = tmp_path / "b"
    with monkeypatch.context() as patched:
        patched.setattr(atomic_file, "_flush", dying)
        # A process that was killed cleans nothing up.
        patched.setattr(atomic_file.shutil, "rmtree", lambda *_, **__: None)
        try:
            explain(pictures, out)
        except Killed:
            assert flushes > last
    done = {name: data for name, data in files_of(out).items() if name.startswith("index/0")}
    explain(pictures, out, resume=True)
    assert files_of(out) == files_of(tmp_path / "a")
    assert done.items() <= files_of(out).items()


def test_unfinished_files_are_swept_away_at_resume(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    expected = files_of(out)
    (out / "shards" / ".unfinished-12ab").mkdir()
    (out / "shards" / ".unfinished-12ab" / "00001.safetensors").write_bytes(b"half")
    (out / "index" / "00001.parquet").unlink()
    (out / "shards" / "00001.safetensors").write_bytes(b"without an index")
    explain(pictures, out, resume=True)
    assert files_of(out) == expected


# ---------------------------------------------------------------- resume, overwrite, lock


def test_a_folder_with_a_job_is_not_touched_without_being_asked(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    before = files_of(out)
    with pytest.raises(ValueError, match=r"which has one; resume .* overwrite .* begins anew"):
        explain(pictures, out, explainer(n_steps=3))
    assert files_of(out) == before
    explain(pictures, out, explainer(n_steps=3), overwrite=True)
    assert files_of(out)["job.json"] != before["job.json"]
    with pytest.raises(ValueError, match="must not be given together"):
        explain(pictures, out, resume=True, overwrite=True)


def test_overwriting_deletes_the_files_of_a_job_and_no_other(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    (out / "mine.txt").write_text("mine")
    (out / "shards" / "mine.safetensors").write_text("mine")
    explain(pictures, out, limit=1, overwrite=True)
    assert {*files_of(out)} == {
        "job.json", "items.arrow", "shards/00000.safetensors", "index/00000.parquet",
        "mine.txt", "shards/mine.safetensors",
    }  # fmt: skip


def test_results_without_a_job_are_not_touched(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    (out / "job.json").unlink()
    with pytest.raises(ValueError, match=r"must have a job.json where it has results"):
        explain(pictures, out, resume=True)


def other_weights() -> nn.Module:
    module = network()
    with torch.no_grad():
        next(module.parameters()).mul_(1.5)
    return module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"made": partial(explainer, n_steps=9)}, "options.n_steps 8 then, 9 now"),
        ({"made": partial(explainer, target=2)}, "target null then, 2 now"),
        ({"batch_size": 3}, "batch_size 2 then, 3 now"),
        ({"shard_size": 5}, "shard_size 4 then, 5 now"),
        ({"store": "fp16"}, 'store "fp32" then, "fp16" now'),
        ({"limit": 9}, "10 then, 9 now; the first that differs is item 9: .* then, none now"),
        ({"made": partial(explainer, (16, 16), other_weights())}, 'weights "sha256:'),
        ({"made": partial(explainer, (12, 16))}, r"preprocessing.size \[16, 16\] then, \[12"),
    ],
)
def test_a_job_does_not_go_on_in_another_way(
    pictures: Path, out: Path, change: dict[str, Any], message: str
) -> None:
    explain(pictures, out)
    before = files_of(out)
    with pytest.raises(ValueError, match=f"resume must be asked with .* got .*{message}"):
        explain(pictures, out, resume=True, **change)
    assert files_of(out) == before


def test_a_picture_that_changed_since_is_noticed(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    (pictures / "004.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"item 4: .*004.png \(8.. bytes\) then, .* \(0 bytes\) now"
    ):
        explain(pictures, out, resume=True)
    (pictures / "004.png").unlink()
    with pytest.raises(
        ValueError, match=r"10 then, 9 now; .* item 4: .*004.png .* then, .*005.png"
    ):
        explain(pictures, out, resume=True)


def test_a_picture_that_appears_is_named(pictures: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{pictures / '000.png'}\n{pictures / 'late.png'}\n")
    explain(tmp_path / "list.txt", out)
    (pictures / "late.png").write_bytes((pictures / "001.png").read_bytes())
    with pytest.raises(ValueError, match=r"got item 1: .*late.png \(not there\) then, .* bytes\)"):
        explain(tmp_path / "list.txt", out, resume=True)


def test_a_list_of_items_that_is_gone_is_written_again(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    before = files_of(out)
    (out / "items.arrow").unlink()
    explain(pictures, out, resume=True)
    assert files_of(out) == before


@pytest.mark.parametrize("what", ["tensor", "network"])
def test_what_an_explainer_holds_besides_must_stay_too(
    pictures: Path, out: Path, what: str
) -> None:
    class Prior:
        def __init__(self, module: nn.Module) -> None:
            self.module = module
            self._cache = torch.rand(3)

    def made(shade: float) -> Any:
        grey = torch.full((1, 3, 16, 16), shade)
        changed = network()
        with torch.no_grad():
            next(changed.parameters()).mul_(1 + shade)
        if what == "tensor":
            return explainer(baseline=lambda pixels, _: grey)
        return explainer(baseline=partial(lambda prior, pixels, _: 0.0, Prior(changed)))

    settings = {"model": "small", "method": "integrated_gradients"}
    explain(pictures, out, lambda: made(0.5), settings=settings)
    (out / "index" / "00001.parquet").unlink()
    with pytest.raises(ValueError, match=r'got parts "sha256:.* then, "sha256:.* now'):
        explain(pictures, out, lambda: made(0.6), resume=True, settings=settings)
    explain(pictures, out, lambda: made(0.5), resume=True, settings=settings)


def test_what_is_finished_needs_no_model(pictures: Path, out: Path) -> None:
    settings = {"model": "small", "method": "integrated_gradients"}
    explain(pictures, out, explainer, settings=settings)
    before = files_of(out)
    (out / "summary.html").unlink()

    def unneeded() -> Any:
        raise AssertionError("made")

    summary = explain(pictures, out, unneeded, settings=settings, resume=True)
    assert (summary.ok, summary.explained_now) == (10, 0)
    assert files_of(out) == before and (out / "summary.html").exists()


def test_one_process_at_a_time_is_in_a_folder(pictures: Path, out: Path) -> None:
    out.mkdir()
    with (out / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="must not be in use by another process"):
            explain(pictures, out)
    # The file is still there, and nobody holds it.
    assert explain(pictures, out).ok == 10


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"shard_size": -1}, "shard_size must be at least 1, got -1"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"store": "fp8"}, "store must be one of fp32, fp16, got 'fp8'"),
    ],
)
def test_wrong_arguments_are_named(
    pictures: Path, out: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"jobs: {message}"):
        explain(pictures, out, **option)
    assert not out.exists()


def test_missing_packages_are_named(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    with pytest.raises(MissingDependency, match=r"pyarrow .* pip install pyxai-fast\[jobs\]"):
        explain(pictures, out)
    with pytest.raises(MissingDependency, match="pyarrow"):
        jobs.results(out)


# ---------------------------------------------------------------- what goes wrong


def test_bad_files_are_listed_and_left_out(pictures: Path, tmp_path: Path, out: Path) -> None:
    whole = (pictures / "000.png").read_bytes()
    (pictures / "001.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "002.png").write_bytes(b"nonsense")
    Image.new("1", (20_000, 20_000)).save(pictures / "003.png")
    tar = pack(tmp_path / "more.tar", {"good.png": whole, "bad.png": whole[:99]})
    (tmp_path / "list.txt").write_text(str(pictures / "none.png"))
    summary = explain([pictures, tar, tmp_path / "list.txt"], out)
    assert (summary.items, summary.ok, summary.bad) == (13, 8, 5)
    listed = (out / "bad.csv").read_text().splitlines()
    assert listed[0] == "number,path,status,reason"
    assert f"1,{pictures / '001.png'},bad,image file is truncated" in listed[1]
    assert "not an image file" in listed[2]
    assert "decompression bomb" in listed[3]
    assert listed[4].startswith(f"11,{tar}::bad.png,bad,")
    assert listed[5].endswith("none.png,bad,no such file")
    with pytest.raises(KeyError, match="is bad: not an image file"):
        jobs.results(out)[2]


def test_a_data_set_of_bad_files_alone_is_listed(tmp_path: Path, out: Path) -> None:
    for path in draw(tmp_path / "in", 3):
        path.write_bytes(b"")
    for name, size in (("sized", (16, 16)), ("any", None)):
        summary = explain(tmp_path / "in", out / name, explainer(size))
        assert (summary.ok, summary.bad) == (0, 3)
        assert list(jobs.results(out / name)) == []


def test_a_shard_of_bad_files_alone_is_done_too(pictures: Path, out: Path) -> None:
    for i in range(4):
        (pictures / f"{i:03d}.png").write_bytes(b"")
    summary = explain(pictures, out)
    assert (summary.ok, summary.bad, summary.shards) == (6, 4, 3)
    assert not (out / "shards" / "00000.safetensors").exists()
    assert [result.number for result in jobs.results(out)] == [4, 5, 6, 7, 8, 9]


class Steep(nn.Module):
    """A network whose slope is infinite where a picture begins white."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + (1 - x[:, :1, 0, 0]).sqrt()


def test_maps_that_are_not_finite_are_marked(pictures: Path, out: Path) -> None:
    picture = Image.open(pictures / "003.png")
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(pictures / "003.png")
    made = explainer((16, 16), Steep(), "saliency")
    summary = explain(pictures, out, made)
    assert (summary.ok, summary.not_finite, summary.bad) == (9, 1, 0)
    row = jobs.results(out).table().slice(3, 1).to_pylist()[0]
    assert row["status"] == "not finite"
    assert row["reason"] == "1 of 768 attributions are nan or inf"
    assert jobs.results(out)[3].attributions[0, 0, 0].isinf()
    assert ",not finite,1 of 768" in (out / "bad.csv").read_text()


# ---------------------------------------------------------------- what it says


def test_the_page_says_what_was_done_and_escapes_names(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "in", 3)
    name = "<script>alert(1)</script> & co.png".replace("/", "-")
    (tmp_path / "in" / "000.png").rename(tmp_path / "in" / name)
    (tmp_path / "in" / "bad<b>.png").write_bytes(b"nonsense")
    explain(tmp_path / "in", out)
    page = (out / "summary.html").read_text()
    assert page.count("<figure>") == 3
    assert html.escape(name) in page and "<script" not in page and "bad<b>" not in page
    assert "not an image file" in page and "Largest completeness gaps" in page
    assert "http" not in page  # all that it shows is in it


def test_the_page_is_of_a_bounded_size(tmp_path: Path, out: Path) -> None:
    paths = draw(tmp_path / "in", 90)
    for path in paths[:20]:
        path.write_bytes(b"")
    explain(tmp_path / "in", out, explainer(method="saliency"), batch_size=32, shard_size=64)
    page = (out / "summary.html").read_text()
    assert page.count("<figure>") == 60 and len(page) < 500_000


def test_the_page_is_made_without_the_pictures(pictures: Path, out: Path) -> None:
    made = explainer()
    with jobs.begin(made, pictures, out, batch_size=2, shard_size=4) as begun:
        for _ in jobs.ShardWorker(begun.job).explain(begun.job.missing()):
            pass
        for path in pictures.iterdir():
            path.unlink()
        summary = jobs.finish(begun.job, 10, 1.0)
    assert summary.items_per_second == 10
    assert (out / "summary.html").read_text().count("<figure>") == 10


def test_the_record_says_what_the_bits_depend_on(pictures: Path, out: Path) -> None:
    explain(pictures, out)
    record = json.loads((out / "job.json").read_text())
    assert record["settings"]["method"] == "integrated_gradients"
    assert record["settings"]["options"] == {"n_steps": 8}
    assert record["items"]["count"] == 10 and record["plan"]["memory_format"] == "contiguous"
    assert record["versions"]["torch"] == torch.__version__
    lines = [
        json.loads(line)
        for path in (out / "log").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert [line["shard"] for line in lines] == [0, 1, 2]
    assert all(line["seconds"] > 0 for line in lines)


def test_lines_say_how_far_a_job_is(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(total=2000, every=0.0)
    lines.say("3 bad")
    lines.update(500)
    assert "500 of 2,000 items (25%)" in capsys.readouterr().err
    assert lines.line(100.0) == (
        "pyxai-fast: 500 of 2,000 items (25%), 5 items/s, 5 min 0 s left, 3 bad"
    )
    quiet = Lines(total=10)
    quiet.update(5)
    assert capsys.readouterr().err == ""
    assert [duration(s) for s in (4.4, 61, 7265)] == ["4 s", "1 min 1 s", "2 h 1 min"]


def test_lines_stand_in_for_a_bar_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyxai_fast.jobs.progress import job_progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # not installed
    assert isinstance(job_progress(True, 10), Lines)


def test_the_last_word_on_a_shard_is_the_latest_in_any_time_zone(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyxai_fast.jobs.summary import logged

    explain(pictures, out, limit=4)
    (line,) = logged(out)
    (path,) = (out / "log").iterdir()
    for zone in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            (out / "index" / "00000.parquet").unlink()
            explain(pictures, out, limit=4, resume=True)
            (latest,) = logged(out)
            assert latest == json.loads(path.read_text().splitlines()[-1])
        finally:
            monkeypatch.undo()
            time.tzset()
    assert line["finished"].endswith("Z")
