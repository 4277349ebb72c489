"""Black box: the slope from the model's answers at noisy copies of the input."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool, is_one_of
from ..models.preprocessing import Affine
from ..models.row_planner import row_planner
from ..models.score import RowScore
from ..reference.path import memory_format_of
from ..runtime.chunks import Chunk, length, run_chunks
from ..segments import tiles
from .gradient import Slopes
from .likelihood_sums import LikelihoodSums
from .noise_field import NoiseField
from .turns import LEAST, Turns

DISTRIBUTIONS = ("gaussian", "rademacher", "orthogonal")
BASELINES = ("none", "clean", "mean", "leave_one_out")
MODES = ("partition", "random", "shared")
ALLOCATIONS = ("uniform", "neyman")

# Streams of the noise's counter: far from those in which paths draw their points.
FIRST_STREAM = 2**14
# Units before it is first asked whether the estimate is good enough; doubled from there.
FIRST_LOOK = 128
# Neyman: the share of the units that are spent on finding out where the others help most.
PILOT_SHARE = 0.2

Sigma = float | Tensor | Sequence[float | Tensor]
Blocks = int | Tensor | Sequence[int | Tensor]


class LikelihoodRatio:
    """The gradient of a score, estimated from answers alone, with its standard error.

    ``g = 1/K sum_k (s(x + sigma e_k) - b) e_k / sigma``,   e_k ~ N(0, I)

    Its expectation is the gradient of the smoothed score E[s(x + sigma e)] (Stein's lemma), so it
    converges to SmoothGrad of the same sigma, and to the plain gradient as sigma goes to 0. The
    score-function identity is that of evolution strategies; for explanations see "Is Forward
    Gradient an Effective Tool for Explaining Black-box Models?" (2024), equations 2 to 5.

    What to expect: on a linear score with D features, the cosine to the true gradient is about
    1 / sqrt(1 + (D + 1) / m) after m copies, or m antithetic pairs (2 m copies). A picture of
    3x224x224 needs 10,000s of copies; with `mode="shared"` the unknowns are blocks, and a thousand
    go a long way. The standard errors say how far one is.

    Args:
        n_samples: K, copies that the model is asked for each point.
        sigma: the noise's standard deviation, in the units of the inputs: a number, or a tensor
            [1 or B, ...] for features of different units; a tuple of these for a tuple of inputs.
            Large enough to be seen by the model (8-bit pixels: well above 1/255), and small
            against what changes its answer.
        distribution: "gaussian"; "rademacher" (signs: cheaper, and of a little less variance);
            "orthogonal" (signs, rows of a Hadamard matrix: as many pairs as D, rounded up to a
            power of two, or copies with baseline="clean", give a linear score's gradient exactly;
            standard errors, and `tolerance` with them, take the directions for independent and are
            too large).
        antithetic: copies come in pairs x + sigma e and x - sigma e. Cancels all of the score that
            is even around x, its value included: no baseline is needed then, and none is used.
            Where the score is nearly linear, single copies learn twice as much from a query.
        baseline: b, subtracted from the answers where copies are not antithetic. "none": 0, which
            makes the variance grow as (s(x) / sigma)^2. "clean": s(x), one query more for each
            point. "mean": of all copies, biased by 1/K. "leave_one_out": of all other copies.
        blocks: None perturbs all features at once. An int makes square tiles of that many pixels
            (runs of that many features, for tables); an integer tensor [1 or B, 1 or C, ...] holds
            the block of each feature from 0, features outside are -1; a tuple for a tuple of
            inputs. Maps of several examples share their numbers: all take as many turns.
        mode: what blocks are for.
            "partition": blocks take turns, and only one is perturbed in a copy.
            "random": each copy perturbs a random share `keep` of the blocks (of the features,
            where blocks is None).
            "shared": the features of a block share one noise value: the slope of each block, spread
            evenly over its features.
        keep: the share perturbed in mode "random".
        allocation: of the copies to blocks that take turns: "uniform", or "neyman": a fifth of the
            copies finds out where the standard error is largest, and the rest goes there. That
            fifth is not used again: an estimate that decides on its own copies is biased.
        clip: the range (low, high) of the inputs; copies are clipped to it, and the slope that
            clipping takes away is given back (features so far outside that none is left get 0).
        reflect: mirror copies at the ends of the range instead. Nothing is given back then: at the
            very end of the range a mirrored score is flat.
        tolerance: stop asking for a point when the root mean square of the standard errors is at
            most this share of that of the slopes (in units of sigma), looked at after 128, 256,
            512... units; None never stops early. The cosine to the smoothed gradient is then about
            1 / sqrt(1 + tolerance^2).
        seed: of the noise. The same seed gives the same estimate for any choice of chunks, as far
            as the model's own answers do not depend on them. The noise of an example goes by its
            place in the batch.

    When blocks help. At equal queries, "partition" and "random" are a little worse on a linear
    score than noise everywhere: n_blocks times fewer copies for each feature, n_blocks times less
    variance in each. They help where noise everywhere leaves the neighbourhood in which the score
    is nearly linear, where few blocks hold all of the slope ("neyman" finds them), and where a
    large sigma is needed. "shared" asks for less, one number a block: a coarser map from few
    queries.

    Raises:
        ArgumentError: naming the argument, what it must be and what it is.
    """

    needs_autograd = False
    explains_score = True

    def __init__(
        self,
        n_samples: int = 1000,
        sigma: Sigma = 0.05,
        distribution: str = "gaussian",
        antithetic: bool = True,
        baseline: str = "leave_one_out",
        *,
        blocks: Blocks | None = None,
        mode: str = "partition",
        keep: float = 0.25,
        allocation: str = "uniform",
        clip: tuple[float | None, float | None] | None = None,
        reflect: bool = False,
        tolerance: float | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("distribution", distribution, DISTRIBUTIONS),
            ("baseline", baseline, BASELINES),
            ("mode", mode, MODES),
            ("allocation", allocation, ALLOCATIONS),
        ):
            _require(is_one_of(value, known), name, f"one of {', '.join(known)}", value)
        for name, flag in (("antithetic", antithetic), ("reflect", reflect)):
            check_bool("LikelihoodRatio", name, flag)
        self.n_samples = _whole("n_samples", n_samples)
        self.signs = 2 if antithetic else 1
        _require(
            self.n_samples % self.signs == 0, "n_samples", "even with antithetic=True", n_samples
        )
        for each in sigma if isinstance(sigma, (tuple, list)) else (sigma,):
            _require(_is_sigma(each), "sigma", "a number > 0, or a tensor of such", each)
        _require(
            mode != "shared" or blocks is not None, "blocks", "given for mode='shared'", blocks
        )
        _require(_is_number(keep, above=0) and keep <= 1, "keep", "in (0, 1]", keep)
        _require(
            tolerance is None or _is_number(tolerance, above=0),
            "tolerance", "None or a number > 0", tolerance,
        )  # fmt: skip
        _require(clip is None or _is_range(clip), "clip", "None or a range (low, high)", clip)
        _require(not reflect or clip is not None, "clip", "given for reflect=True", clip)
        self.sigma, self.distribution, self.antithetic = sigma, distribution, antithetic
        self.baseline, self.blocks, self.mode, self.keep = baseline, blocks, mode, keep
        self.allocation, self.clip, self.reflect = allocation, clip, reflect
        self.tolerance, self.seed = tolerance, seed
        in_turn = blocks is not None and mode == "partition"
        _require(
            allocation == "uniform" or in_turn,
            "allocation", "'uniform' unless blocks take turns (mode 'partition')", allocation,
        )  # fmt: skip
        if self._centred:
            _require(self.n_samples > 1, "n_samples", "> 1 for this baseline", n_samples)
        if distribution == "orthogonal":
            # Of a matrix's rows a block would see every n-th only, which are not orthogonal.
            _require(not in_turn, "distribution", "random where blocks take turns", distribution)
            # The first column of a Hadamard matrix is constant: its answers would be the mean.
            _require(
                not self._centred, "baseline",
                "'clean' or 'none' for orthogonal directions without antithetic pairs", baseline,
            )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"LikelihoodRatio(n_samples={self.n_samples}, sigma={_short(self.sigma)}, "
            f"distribution={self.distribution!r}, antithetic={self.antithetic}, "
            f"baseline={self.baseline!r}, blocks={_short(self.blocks)}, mode={self.mode!r}, "
            f"keep={self.keep}, allocation={self.allocation!r}, clip={self.clip}, "
            f"reflect={self.reflect}, tolerance={self.tolerance}, seed={self.seed})"
        )

    @property
    def _centred(self) -> bool:
        """Whether answers are taken relative to their own mean."""
        return not self.antithetic and self.baseline in ("mean", "leave_one_out")

    @property
    def evaluations(self) -> int:
        return self.n_samples + (self.baseline == "clean" and not self.antithetic)

    def __call__(
        self,
        rows: RowScore,
        points: tuple[Tensor, ...],
        *,
        create_graph: bool = False,
        variances: bool = False,
    ) -> Slopes:
        if create_graph:
            raise ArgumentError(
                "LikelihoodRatio: create_graph must be False, got True: what is estimated from "
                "answers alone has no graph"
            )
        with torch.no_grad():
            return self._estimate(rows, tuple(x.detach() for x in points), variances)

    def _estimate(self, rows: RowScore, points: tuple[Tensor, ...], variances: bool) -> Slopes:
        fields = self._fields(rows, points)
        in_turn = self.blocks is not None and self.mode == "partition"
        turns = None
        if in_turn:
            adapts = self.allocation == "neyman"
            least = 2 * LEAST if adapts else LEAST if self._centred else 1
            turns = Turns(fields, self.n_samples // self.signs, least)
        sums = LikelihoodSums.zeros(
            fields,
            rows.score.n_targets,
            1 if turns is None else turns.n_blocks,
            centred=self._centred,
            leave_one_out=self._centred and self.baseline == "leave_one_out",
            variances=variances,
        )
        asked = torch.arange(len(rows), device=points[0].device)
        for first, last in self._rounds(turns):
            if len(asked) == len(rows):
                self._ask(rows, fields, sums, turns, first, last)
            else:
                # Inputs that are done are neither asked nor copied.
                part = sums.take(asked)
                self._ask(
                    rows.take(asked),
                    tuple(field.take(asked) for field in fields),
                    part,
                    None if turns is None else turns.take(asked),
                    first,
                    last,
                )
                sums.put(asked, part)
            if turns is not None and self.allocation == "neyman" and first == 0:
                turns.allocate(sums.spread(), last)
                sums.clear()
                continue
            if self.tolerance is not None:
                asked = asked[self._is_uncertain(fields, sums).to(asked.device)[asked]]
                if len(asked) == 0:
                    break
        results = [sums.estimate(fields, i) for i in range(len(fields))]
        self._warn_of_silence(rows, results)
        several = rows.score.several
        values = tuple(slope if several else slope[:, 0] for slope, _ in results)
        if not variances:
            return Slopes(values)
        return Slopes(values, tuple(var if several else var[:, 0] for _, var in results))

    def _warn_of_silence(self, rows: RowScore, results: list[tuple[Tensor, Tensor]]) -> None:
        """Of slopes that are exactly zero because no copy has changed the answer."""
        still = torch.ones(len(rows), dtype=torch.bool)
        for slope, _ in results:
            still &= (slope.flatten(1) == 0).all(1).cpu() if slope.numel() else False
        if bool(still.any()):
            which = sorted(set(rows.example[still.to(rows.example.device)].tolist()))
            named = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
            warnings.warn(
                f"LikelihoodRatio: the noise made no difference to the answers for inputs {named}, "
                f"so that their slopes are 0: sigma, {self.sigma!r}, may be smaller than the steps "
                "of the model (a forest's splits, for one)",
                stacklevel=2,
            )

    def _ask(
        self,
        rows: RowScore,
        fields: tuple[NoiseField, ...],
        sums: LikelihoodSums,
        turns: Turns | None,
        first: int,
        last: int,
    ) -> None:
        """Asks units first to last - 1 of all rows, as many at once as fit, and adds them."""
        points = tuple(field.points for field in fields)
        formats = [memory_format_of(x) for x in points]
        buffers: list[Tensor | None] = [None] * len(fields)
        planner = row_planner(rows.score, points, "forward", self.signs)

        def run(chunk: Chunk) -> None:
            part = tuple(field.take(chunk.examples) for field in fields)
            units = length(chunk.steps)
            active = None
            if turns is not None:
                active = turns.active(chunk.examples, chunk.steps)
            copies = units * self.signs
            try:
                queries = []
                for i, field in enumerate(part):
                    shape = (copies * len(field.points), *field.points.shape[1:])
                    buffer = buffers[i]
                    if buffer is None or len(buffer) < shape[0]:
                        buffer = buffers[i] = torch.empty(
                            shape, dtype=points[i].dtype, device=points[i].device,
                            memory_format=formats[i],
                        )  # fmt: skip
                    out = buffer[: shape[0]]
                    queries.append(field.queries(chunk.steps.start, units, active, formats[i], out))
                answers = self._answers(rows.take(chunk.examples, copies), tuple(queries))
            except BaseException:
                buffers[:] = [None] * len(fields)  # memory for the next, smaller try
                raise
            answers = answers.reshape(units, self.signs, len(part[0].points), -1)
            mine = sums.take(chunk.examples)
            if self.antithetic:
                w = (answers[:, 0] - answers[:, 1]) / 2
            else:
                if chunk.steps.start == 0:
                    mine.reference.copy_(
                        self._reference(rows.take(chunk.examples), part, formats, answers[0, 0])
                    )
                w = answers[:, 0] - mine.reference
            mine.add(part, w, chunk.steps.start, active)

        work = Chunk(slice(0, len(rows)), slice(first, last))
        run_chunks(work, planner, run, rows.score.cost)

    def _reference(
        self,
        rows: RowScore,
        fields: tuple[NoiseField, ...],
        formats: list[torch.memory_format],
        first_answers: Tensor,
    ) -> Tensor:
        """What is subtracted from all answers [R, n]; where w is centred, only to keep digits."""
        if self.baseline == "none":
            return torch.zeros_like(first_answers)
        if self.baseline == "clean":
            clean = tuple(f.unperturbed(mf) for f, mf in zip(fields, formats, strict=True))
            return self._answers(rows, clean).reshape(first_answers.shape)
        return first_answers

    @staticmethod
    def _answers(rows: RowScore, queries: tuple[Tensor, ...]) -> Tensor:
        """Answers in float64, asked max_rows at a time at most."""
        most = rows.score.max_rows or len(rows)
        if len(rows) <= most:
            return rows(queries).double()
        parts = [slice(begin, begin + most) for begin in range(0, len(rows), most)]
        return torch.cat([rows.take(p)(tuple(q[p] for q in queries)).double() for p in parts])

    def _rounds(self, turns: Turns | None) -> Iterator[tuple[int, int]]:
        """The units in rounds, after each of which what comes next may change."""
        units = self.n_samples // self.signs
        ends = {units}
        look = FIRST_LOOK if turns is None else max(FIRST_LOOK, 4 * turns.n_blocks)
        if turns is not None and self.allocation == "neyman":
            pilot = max(LEAST * turns.n_blocks, round(PILOT_SHARE * units))
            ends.add(pilot)
            look = max(look, pilot)
        if self.tolerance is not None:
            while look < units:
                ends.add(look)
                look *= 2
        begin = 0
        for end in sorted(ends):
            yield begin, end
            begin = end

    def _is_uncertain(self, fields: tuple[NoiseField, ...], sums: LikelihoodSums) -> Tensor:
        """Which rows have a target whose standard error is above the tolerance, bool [R].

        In units of sigma, with the noise taken for independent of the answers: exact for signs,
        and within a share of 1/sqrt(features) for Gaussian noise.
        """
        n = sums.reference.shape[1]
        counts = sums.moments[..., :1]
        share = fields[0].keep
        per_unit = sums.spread() / (counts * share).clamp(min=1)  # [R, turns, n]
        error = torch.zeros_like(sums.reference)
        size = torch.zeros_like(sums.reference)
        for i, field in enumerate(fields):
            values, _ = sums.estimate(fields, i)
            if field.shared or counts.shape[1] == 1:
                error += field.perturbed()[:, None] * per_unit[:, 0]
            else:
                error += field.per_feature(per_unit.transpose(1, 2)).flatten(2).sum(2)
            scaled = values * field.response()[:, None]
            if field.shared:
                scaled = torch.stack([field.per_block(scaled[:, j]) for j in range(n)], 1)
            size += (scaled**2).flatten(2).sum(2)
        assert self.tolerance is not None
        return (error > self.tolerance**2 * (size - error).clamp(min=0)).any(1)

    def _fields(self, rows: RowScore, points: tuple[Tensor, ...]) -> tuple[NoiseField, ...]:
        count = len(points)
        sigmas = _each("sigma", self.sigma, count)
        blocks = _each("blocks", self.blocks, count)
        affines = rows.score.affines or (None,) * count
        maps = [
            None if b is None else _block_map(b, x, rows)
            for b, x in zip(blocks, points, strict=True)
        ]
        if self.blocks is not None and self.mode == "partition":
            maps = _numbered_on(maps, points)
        if self.mode == "shared":
            _require(None not in blocks, "blocks", "given for every input in mode 'shared'", None)
        # Counted over all examples, not those of a chunk, which would choose the numbers.
        sizes = [0 if m is None else int(m.max()) + 1 for m in maps]
        if self.mode == "partition":
            sizes = [max(sizes)] * count
        maps = [None if m is None else _of_examples(m, rows) for m in maps]
        fields = []
        for i, x in enumerate(points):
            _warn_of_grey_levels(rows, sigmas[i], affines[i])
            fields.append(
                NoiseField(
                    points=x,
                    numbers=rows.numbers,
                    sigma=_sigma_of_rows(sigmas[i], x, rows),
                    key=ops.random_key(self.seed, FIRST_STREAM + i, device=x.device),
                    distribution=self.distribution,
                    antithetic=self.antithetic,
                    blocks=maps[i],
                    n_blocks=sizes[i],
                    shared=self.mode == "shared",
                    keep=self.keep if self.mode == "random" else 1.0,
                    clip=self.clip,
                    reflect=self.reflect,
                    affine=affines[i],
                )
            )
        return tuple(fields)


def _block_map(blocks: int | Tensor, x: Tensor, rows: RowScore) -> Tensor:
    """int32 [1 or B, 1 or C, ...]."""
    if isinstance(blocks, int):
        return tiles(x.shape[1:], blocks).to(x.device)
    fits = isinstance(blocks, Tensor) and not blocks.is_floating_point()
    fits = fits and blocks.dim() == x.dim() and blocks.shape[0] in (1, rows.score.batch)
    fits = fits and all(
        size == wanted or (d == 0 and x.dim() > 2 and size == 1)
        for d, (size, wanted) in enumerate(zip(blocks.shape[1:], x.shape[1:], strict=True))
    )
    _require(
        fits, "blocks", f"an int, or an integer tensor [1 or B, 1 or C, ...] for inputs "
        f"{['B', *x.shape[1:]]}", blocks,
    )  # fmt: skip
    if int(blocks.max()) < 0:
        raise ArgumentError("LikelihoodRatio: blocks must hold a feature (>= 0), got none")
    if bool((blocks < 0).any()):
        warnings.warn(
            "LikelihoodRatio: features outside every block are never perturbed: their slope is 0 "
            "with an infinite standard error",
            stacklevel=2,
        )
    return blocks.to(x.device, torch.int32)


def _of_examples(values: Tensor, rows: RowScore) -> Tensor:
    """From [1 or B, ...] to [1 or R, ...]."""
    return values if values.shape[0] == 1 else values[rows.example.to(values.device)]


def _numbered_on(maps: list[Tensor | None], points: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Blocks of several tensors that take turns: numbered on from one tensor to the next."""
    numbered: list[Tensor | None] = []
    offset = 0
    for m, x in zip(maps, points, strict=True):
        m = torch.zeros(1, *x.shape[1:], dtype=torch.int32, device=x.device) if m is None else m
        numbered.append(torch.where(m < 0, m, m + offset))
        offset += int(m.max()) + 1
    return numbered


def _sigma_of_rows(sigma: Any, x: Tensor, rows: RowScore) -> Tensor:
    """[] or [1 or R, ...]."""
    if not isinstance(sigma, Tensor) or sigma.numel() == 1:
        return torch.full((), float(sigma), dtype=torch.float64, device=x.device)
    try:
        full = sigma.to(x).expand(sigma.shape[0], *x.shape[1:])
    except RuntimeError:
        full = None
    if full is None or full.shape[0] not in (1, rows.score.batch):
        raise ArgumentError(
            f"LikelihoodRatio: sigma must be a number or have shape [1 or {rows.score.batch}, "
            f"...] like its input {['B', *x.shape[1:]]}, got {list(sigma.shape)}"
        )
    return _of_examples(full, rows)


def _warn_of_grey_levels(rows: RowScore, sigma: Any, affine: Affine | None) -> None:
    """Noise that a model with 8-bit inputs rounds away."""
    level = getattr(rows.score.forward, "grey_level", None)
    if level is None:
        return
    smallest = float(sigma.min()) if isinstance(sigma, Tensor) else sigma
    seen = smallest * (1.0 if affine is None else float(affine.scale.abs().min()))
    if seen < level:
        warnings.warn(
            f"LikelihoodRatio: sigma must be well above what the model can tell apart, got "
            f"{seen / level:.2g} grey levels: most of the noise is rounded away",
            stacklevel=2,
        )


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value for all tensors, or one for each."""
    if not isinstance(value, (tuple, list)):
        return [value] * count
    if len(value) != count:
        raise ArgumentError(
            f"LikelihoodRatio: {name} must be given once or for each of {count} inputs, got "
            f"{len(value)}"
        )
    return list(value)


def _require(condition: bool, name: str, what: str, got: object) -> None:
    if not condition:
        raise ArgumentError(f"LikelihoodRatio: {name} must be {what}, got {_short(got)}")


def _whole(name: str, value: object) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    _require(number >= 1, name, "an integer >= 1", value)
    return number


def _is_number(value: Any, above: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > above


def _is_sigma(value: Any) -> bool:
    if isinstance(value, Tensor):
        numbers = not value.is_complex() and not value.is_meta
        return numbers and bool(((value > 0) & value.isfinite()).all())
    return _is_number(value, above=0) and value < math.inf


def _is_range(value: Any) -> bool:
    """(low, high), numbers or None where it is open."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    if not all(end is None or isinstance(end, (int, float)) for end in value):
        return False
    low = -math.inf if value[0] is None else value[0]
    high = math.inf if value[1] is None else value[1]
    return bool(low < high)  # which NaN is not


def _short(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
