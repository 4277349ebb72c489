"""Comparing methods on files, into a folder in which a comparison that was stopped is gone on
with."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..jobs.atomic_file import sweep, write_text
from ..jobs.folder_lock import folder_lock
from ..jobs.items import Item, digest
from ..jobs.job import check_same, describe, fingerprint, fingerprint_of_parts, surroundings
from ..jobs.progress import job_progress
from ..jobs.reading import Group, Span, read_span
from ..models.black_box import BlackBox
from ..picture_explainer import PictureExplainer
from ..runtime.prepared import prepare
from .budget import lightened
from .comparison import COSTS, GALLERY, MAPS, Comparison
from .controls import CONTROLS
from .entries import Entry, Spent
from .explainers import Explainer, MakeMaps, Maps, control, maps_of
from .front_door import about_of, comparison_of
from .gallery import Gallery, spread
from .loop import Comparing, Pictures
from .mask_folder import MaskFolder
from .metrics import check_pictures
from .rows_file import RowsFile

RECORD = "comparison.json"
# Of the record; another layout is another number.
FORMAT = 1
# Pictures on which the faster format in memory is measured, where that is not given.
MEASURED_ON = 2


class Folder:
    """Where a comparison is.

    Args:
        out: the folder.
        resume: whether a comparison in it is gone on with.
        overwrite: whether one in it is begun anew.

    Attributes:
        begun: whether there is something to go on with.

    Raises:
        ArgumentError: it is none, or has a comparison of which neither was said, or both were; or
            files of one that cannot be gone on with, and it is not to be begun anew.
    """

    def __init__(self, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.out, self.resume = out, resume
        self.begun = False
        self.written: list[str] = []
        if resume and overwrite:
            raise ArgumentError("evaluate: resume and overwrite must not be given together")
        if out.exists() and not out.is_dir():
            raise ArgumentError(f"evaluate: out must be a folder, got the file {out}")
        if (out / RECORD).exists() and not (resume or overwrite):
            raise ArgumentError(
                f"evaluate: {out} has a comparison already; resume (--resume) goes on with it, "
                "overwrite (--overwrite) begins anew, or name another folder"
            )
        kept = [name for name in (MAPS, COSTS, GALLERY) if (out / name).exists()]
        if kept and not overwrite and not (out / RECORD).exists():
            raise ArgumentError(
                f"evaluate: {out} has {' and '.join(kept)}, and no {RECORD} to go on with; "
                "overwrite (--overwrite) begins anew without them, or name another folder"
            )

    def record(self) -> dict[str, Any] | None:
        """What is written of the comparison that is gone on with."""
        path = self.out / RECORD
        if not self.resume or not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArgumentError(f"evaluate: {path} must be JSON, got {error}") from error
        if found.get("format") != FORMAT:
            raise ArgumentError(
                f"evaluate: {path} must be of format {FORMAT}, got {found.get('format')!r}"
            )
        return found

    def begin(self, record: Mapping[str, Any]) -> None:
        """Writes what is compared, or sees to it that it is what was compared before.

        Raises:
            ArgumentError: another comparison is in the folder.
        """
        then, text = self.record(), json.dumps(record, indent=2, sort_keys=True, default=str)
        if then is not None:
            check_same(then, json.loads(text), self.out)
        else:
            sweep(self.out)
            for name in (MAPS, COSTS, GALLERY):
                (self.out / name).unlink(missing_ok=True)
            write_text(self.out / RECORD, text + "\n")
        self.begun = True


def compare_folder(
    folder: Folder,
    explainers: Mapping[str, PictureExplainer],
    items: Sequence[Item],
    *,
    metrics: Sequence[str],
    orders: Sequence[str],
    masks: MaskFolder | None = None,
    target: int | None = None,
    seed: int = 0,
    budget: int | None = None,
    batch_size: int = 16,
    memory_format: str = "auto",
    output: str | None = None,
    progress: bool = False,
    notes: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Comparison | None, int]:
    """Compares methods on files, and writes everything into the folder.

    Rows are written batch by batch and method by method. A comparison that is gone on with has the
    same rows, byte for byte, as one that was not stopped, on the same kind of machine.

    Args:
        folder: where.
        explainers: by label, all of one model.
        items: the pictures; those that cannot be read are told of and skipped.
        metrics: as `chosen` gives them.
        orders, seed, budget: see `about_of`.
        target: the class to explain, None the predicted one; of pictures that have none of their
            own.
        masks: of the pictures.
        batch_size: pictures that are explained together, at most.
        memory_format: of model inputs; "auto" measures which is faster, once for the folder.
        output: the score that was asked to be explained; see `Comparing`.
        progress: a progress bar, or lines.
        notes: on budgets, by label.
        settings: fit for JSON, in which a comparison must be the same to be gone on with.
        about: what else is to be said of it.

    Returns:
        The comparison, None where no picture could be read; and how many could not.

    Raises:
        ArgumentError: a target for pictures that have their own, masks that do not fit, or what is
            in the folder is of another comparison.
    """
    first = next(iter(explainers.values()))
    model, preprocessing, device = first.model, first.model.preprocessing, first.device
    counts = isinstance(model.module, BlackBox)
    own_targets = any(item.target is not None for item in items)
    if own_targets and target is not None:
        raise ArgumentError(
            f"evaluate: target must not be given where the pictures have their own, got {target}"
        )
    if masks is not None:
        masks.check(item.key for item in items)
    # Pixels that are read are in [0, 1].
    check_pictures(metrics, torch.zeros(1, preprocessing.channels, 2, 2))
    folder.out.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder.out):
        then = folder.record() or {}
        if memory_format == "auto":
            memory_format = then.get("memory_format") or _faster_format(first, items)
        for explainer in explainers.values():
            explainer.options.setdefault("memory_format", memory_format)
        compared = [
            Explainer(
                label,
                _maps_by(explainer),
                describe(explainer),
                (notes or {}).get(label),
                None if counts else _maps_by(_lightened(explainer)),
            )
            for label, explainer in explainers.items()
        ]
        compared += [control(label, seed) for label in CONTROLS]
        folder.begin(
            {
                "format": FORMAT,
                "settings": dict(settings or {}),
                "methods": {each.label: each.settings for each in compared},
                "metrics": list(metrics),
                "orders": list(orders),
                "pictures": {"count": len(items), "digest": digest(items)},
                "masks": None if masks is None else masks.fingerprint([item.key for item in items]),
                "target": target,
                "seed": seed,
                "budget": budget,
                "batch_size": batch_size,
                "memory_format": memory_format,
                "weights": fingerprint(first),
                "parts": {n: fingerprint_of_parts(each) for n, each in explainers.items()},
                "threads": torch.get_num_threads(),
                **surroundings(device),
            }
        )
        bar = job_progress(progress, len(items) * len(compared))
        at_work = Comparing(
            prepare(model.module, precision=first.precision, compile=first.compile),
            compared,
            metrics,
            orders,
            RowsFile(folder.out / MAPS, Entry.COLUMNS),
            RowsFile(folder.out / COSTS, Spent.COLUMNS),
            Gallery(spread(len(items)), folder.out / GALLERY),
            exact=model.module,
            target=target,
            preprocessing=preprocessing,
            output=output,
            class_names=model.class_names,
            seed=seed,
            repeatable=not counts,
            progress=bar,
        )
        failures: dict[str, str] = {}
        try:
            for start in range(0, len(items), batch_size):
                span = Span(0, start, min(start + batch_size, len(items)))
                read = read_span(items, span, preprocessing)
                if read.failed is not None:
                    raise ArgumentError(f"evaluate: {read.failed}")
                for number, reason in read.bad.items():
                    failures[items[number].key] = reason
                    print(f"pyxai-fast: {items[number].key}: {reason}", file=sys.stderr)
                for group in read.groups:
                    at_work.compare(_pictures(group, items, masks, first))
                bar.update(len(read.bad) * len(compared))
        finally:
            bar.close()
        if not at_work.entries.rows:
            return None, len(failures)
        comparison = comparison_of(
            at_work,
            {
                **about_of(
                    model.spec,
                    compared,
                    orders,
                    len(items) - len(failures),
                    [item.target for item in items] if own_targets else target,
                    seed,
                    budget,
                    device,
                ),
                **(about or {}),
                "settings": dict(settings or {}),
                "failures": failures,
            },
        )
        folder.written = comparison.save_summary(folder.out)
    return comparison, len(failures)


def _maps_by(explainer: PictureExplainer) -> MakeMaps:
    def maps(pixels: Tensor, target: Tensor, numbers: Sequence[int]) -> Maps:
        return maps_of(explainer(pixels, target=target, numbers=numbers))

    return maps


def _lightened(explainer: PictureExplainer) -> PictureExplainer:
    light = copy.copy(explainer)
    light.options = lightened(explainer.method, explainer.options)
    return light


def _faster_format(explainer: PictureExplainer, items: Sequence[Item]) -> str:
    """Of model inputs in memory: measured on gradients at made-up pictures, of the model's size or
    that of the first picture that can be read."""
    model = explainer.model
    if isinstance(model.module, BlackBox):
        return "contiguous"
    size = model.preprocessing.size
    for number in range(len(items) if size is None else 0):
        read = read_span(items, Span(0, number, number + 1), model.preprocessing)
        if read.groups:
            height, width = read.groups[0].pixels.shape[2:]
            size = height, width
            break
    if size is None:
        return "contiguous"
    generator = torch.Generator().manual_seed(0)
    made_up = torch.rand(MEASURED_ON, model.preprocessing.channels, *size, generator=generator)
    slopes = PictureExplainer(
        model,
        explainer.device,
        "saliency",
        precision=explainer.precision,
        compile=explainer.compile,
    )
    return slopes(made_up).cost.memory_format


def _pictures(
    group: Group,
    items: Sequence[Item],
    masks: MaskFolder | None,
    explainer: PictureExplainer,
) -> Pictures:
    names = [items[number].key for number in group.numbers]
    height, width = group.pixels.shape[2:]
    preprocessing, device = explainer.model.preprocessing, explainer.device
    inside = None
    if masks is not None:
        read = [masks.read(name, preprocessing, (height, width)) for name in names]
        inside = torch.stack(read).to(device)
    return Pictures(
        group.numbers,
        names,
        group.pixels.to(device),
        group.targets,
        inside,
    )
