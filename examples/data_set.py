"""A data set: a folder of pictures into shards of attributions, stopped, gone on with, and read.

    python examples/data_set.py [FOLDER]

Writes digits as pictures, one of them broken, explains half of the shards, stops, and goes on to
the end; the files are, byte for byte, those of a run that was never stopped. Prints what the index
knows, and leaves FOLDER/data_set_maps/summary.html to look at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyxai_fast import PictureExplainer, jobs
from pyxai_fast.demo import load_digits
from pyxai_fast.models.spec import load_model
from pyxai_fast.plots import pixel_image, save_image

PICTURES, SHARD = 60, 10


def draw(folder: Path) -> None:
    """Digits 00.png to 59.png, of which 17 is no picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, digit in enumerate(load_digits("test")[0][:PICTURES]):
        save_image(pixel_image(digit), folder / f"{number:02d}.png")
    (folder / "17.png").write_bytes(b"no picture")


def main(folder: str = ".") -> jobs.Results:
    pictures, maps = Path(folder) / "digits", Path(folder) / "data_set_maps"
    draw(pictures)
    explainer = PictureExplainer(load_model("demo"), method="integrated_gradients", n_steps=20)
    # A process that is killed leaves the same behind as one that is stopped here.
    with jobs.begin(explainer, pictures, maps, shard_size=SHARD, overwrite=True) as begun:
        worker = jobs.ShardWorker(begun.job, explainer=begun.explainer, measured=begun.measured)
        for shard in begun.job.missing()[: begun.job.shards // 2]:
            worker.explain_shard(shard)
        worker.close()
    print(f"stopped: {len(jobs.results(maps))} of {PICTURES} are explained")

    summary = jobs.explain_dataset(explainer, pictures, maps, shard_size=SHARD, resume=True)
    print(f"gone on with: {summary.ok} ok, {summary.bad} bad, {summary.gradients:,} gradients")

    results = jobs.results(maps)
    by_class: dict[str, list[float]] = {}
    for result in results:
        by_class.setdefault(result.class_name, []).append(result.probability)
    print("class  pictures  mean probability")
    for name, probabilities in sorted(by_class.items()):
        mean = sum(probabilities) / len(probabilities)
        print(f"{name:>5}  {len(probabilities):8}  {mean:.2f}")
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
