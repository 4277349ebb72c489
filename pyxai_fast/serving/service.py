"""A model and the methods that clients may choose from, behind one queue."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.errors import ArgumentError, near
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import check_options
from pyxai_fast.methods import METHODS
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.picture_explainer import PictureExplainer, Plan
from pyxai_fast.runtime.chunks import FIRST_CHUNK_ROWS
from pyxai_fast.serving.limits import OPTION_BOUNDS
from pyxai_fast.serving.metrics import Metrics
from pyxai_fast.serving.micro_batcher import MicroBatcher

USUAL_METHODS = (
    "integrated_gradients",
    "saliency",
    "input_x_gradient",
    "smooth_grad",
    "guided_ig",
    "blur_ig",
)
"""Offered besides the method that a server is started with, for models that have gradients."""

ANY_SIZE = (224, 224)
"""Height and width of the made-up pictures that warm up a model which takes any."""

BATCH_WORK = 2048
"""Gradients of a batch of several pictures: the next batch does not wait for more."""

USUAL_QUERIES = 1000
"""About what methods choose that choose by themselves."""

_EXPLAINERS = 64

Options = tuple[tuple[str, int], ...]


class ModelFailed(Exception):
    """The model, or what explains it, raised something that no question is to blame for."""


@dataclass(frozen=True)
class Key:
    """What pictures must have in common to share a batch; without a method it is predicted."""

    method: str | None
    options: Options = ()
    size: tuple[int, int] = (0, 0)


_WARM_UP = Key("warm up")


@dataclass(frozen=True)
class Picture:
    """pixels [C, H, W], float32 in [0, 1], and the class to explain; None for the predicted."""

    pixels: Tensor
    target: int | None = None


@dataclass(frozen=True)
class PictureExplanation:
    """What is known of one picture.

    Attributes:
        pixels, attributions: [C, H, W], float32.
        method: its name.
        target, class_name, probability: of the explained class; None where there are no classes.
        delta: completeness gap; None where the method promises none.
        prediction: what `Service.predict` gives for it, but for rounding, [n].
        gradients, queries: of this picture.
        seconds: of its batch.
        batch: pictures in its batch.
    """

    pixels: NDArray[np.float32]
    attributions: NDArray[np.float32]
    method: str
    target: int | None
    class_name: str | None
    probability: float | None
    delta: float | None
    prediction: NDArray[np.float32]
    gradients: int
    queries: int
    seconds: float
    batch: int

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Of all classes, [n]; None where there are no classes."""
        return self.prediction if self.prediction.size > 1 else None


class Service:
    """Predicts and explains pictures, in batches of equal work.

    What shares a batch does not change an answer but for rounding: sums over a picture are its
    own, random draws go by the number of a picture, which is 0 for all, and networks give the same
    numbers for a row but for the last bits, as matrix products of another height may add in another
    order.

    Args:
        explainer: the model, and the method that it is started with.
        name: of the model, in addresses.
        methods: offered besides, with their defaults; None offers USUAL_METHODS to models with
            gradients, and to others nothing.
        max_batch, max_wait, max_queue: of the MicroBatcher.
        metrics: counts what is done.

    Raises:
        ArgumentError: a method that cannot be offered.
    """

    def __init__(
        self,
        explainer: PictureExplainer,
        name: str,
        *,
        methods: Sequence[str] | None = None,
        max_batch: int = 16,
        max_wait: float = 0.002,
        max_queue: int = 256,
        metrics: Metrics | None = None,
    ) -> None:
        self.explainer, self.name = explainer, name
        self.metrics = Metrics() if metrics is None else metrics
        self.has_gradients = not isinstance(explainer.model.module, BlackBox)
        if methods is None:
            methods = USUAL_METHODS if self.has_gradients else ()
        self.methods = tuple(dict.fromkeys((explainer.method, *methods)))
        for method in self.methods[1:]:
            self._check_offer(method)
        names = explainer.class_names
        self.classes: int | None = None if names is None else len(names)
        self._choices = {name: self._options_of(name) for name in self.methods}
        self.failure: str | None = None
        self._open = False
        self._warm: Future[Any] | None = None
        self._explainers: OrderedDict[tuple[str, Options], PictureExplainer] = OrderedDict()
        self._seconds_per_picture = 0.0
        self.batcher: MicroBatcher[Picture, Any] = MicroBatcher(
            self._work,
            max_batch=max_batch,
            max_wait=max_wait,
            max_queue=max_queue,
            hopeless=(QueryError,),
            on_batch=self._count,
            largest=lambda key: BATCH_WORK // self.work_of(key.method, dict(key.options)),
            lane=lambda key: key.method,
        )
        self.metrics.watch_queue(lambda: self.batcher.waiting)

    @property
    def ready(self) -> bool:
        """Warmed up, and not closed."""
        return self._open and self.alive

    @property
    def alive(self) -> bool:
        """The thread of the model has not ended by itself."""
        return not self.batcher.broken

    @property
    def preprocessing(self) -> Preprocessing:
        return self.explainer.preprocessing

    @property
    def class_names(self) -> list[str] | None:
        return self.explainer.class_names

    def start(self) -> Future[Any]:
        """Starts the thread, once; the future is done when it has warmed up."""
        if self._warm is None:
            self.batcher.start()
            self._warm = self.batcher.submit(_WARM_UP, [Picture(torch.empty(0))])[0]
            self._warm.add_done_callback(self._warmed_up)
        return self._warm

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Whether the thread has ended in time; see MicroBatcher.close."""
        self._open = False
        ended = self.batcher.close(drain=drain, timeout=timeout)
        self.explainer.close()
        return ended

    def predict(self, pixels: Sequence[Tensor]) -> list[Future[NDArray[np.float32]]]:
        """Probabilities [n] of each of the pictures [C, H, W], all of one size.

        Raises:
            QueueFull, Closed: of MicroBatcher.submit.
        """
        return self.batcher.submit(Key(None, (), _size(pixels[0])), [Picture(x) for x in pixels])

    def explain(
        self,
        pixels: Sequence[Tensor],
        targets: Sequence[int | None],
        method: str | None = None,
        options: Mapping[str, int] | None = None,
    ) -> list[Future[PictureExplanation]]:
        """Explains pictures [C, H, W] of one size, each for its target.

        Args:
            method, options: of those that are offered; `check` has seen them.

        Raises:
            QueueFull, Closed: of MicroBatcher.submit.
        """
        chosen = tuple(sorted((options or {}).items()))
        key = Key(method or self.explainer.method, chosen, _size(pixels[0]))
        pictures = [Picture(x, t) for x, t in zip(pixels, targets, strict=True)]
        return self.batcher.submit(key, pictures)

    def check(self, method: str, options: Mapping[str, int]) -> None:
        """Refuses options that the method does not take.

        Raises:
            ValueError, TypeError: naming the option.
        """
        if options:
            own = self.explainer.options if method == self.explainer.method else {}
            check_options(method, {**own, **options}, output=self.explainer.output)

    def choices(self, method: str) -> Mapping[str, int]:
        """The options of a method that clients may set, with their values where they do not."""
        return self._choices[method]

    def work_of(self, method: str | None, options: Mapping[str, int]) -> int:
        """Steps, samples or queries for a picture."""
        work = 1
        for name, usual in self._choices.get(method or "", {}).items():
            work *= options.get(name, usual)
        return work

    def seconds_to_wait(self) -> int:
        """How long the queue takes, as far as can be told: at least 1, at most 60."""
        return max(1, min(60, math.ceil(self.batcher.waiting * self._seconds_per_picture)))

    # ---------------------------------------------------------------- on the thread of the model

    def _work(self, key: Key, pictures: list[Picture]) -> Sequence[Any]:
        try:
            return self._answers(key, pictures)
        except (QueryError, ArgumentError):
            raise
        except BaseException as error:
            raise ModelFailed(f"{type(error).__name__}: {error}") from error

    def _answers(self, key: Key, pictures: list[Picture]) -> Sequence[Any]:
        if key is _WARM_UP:
            self._warm_up()
            return [None]
        pixels = torch.stack([picture.pixels for picture in pictures])
        if key.method is None:
            return self._probabilities(pixels)
        return self._explain(key, pixels, [picture.target for picture in pictures])

    def _probabilities(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        answer = self.explainer.predict(pixels).detach().float().cpu().numpy()
        self.classes = answer.shape[1] if answer.ndim == 2 else 1
        return list(answer[:, None] if answer.ndim == 1 else answer)

    def _explain(
        self, key: Key, pixels: Tensor, targets: list[int | None]
    ) -> list[PictureExplanation]:
        assert key.method is not None
        explainer = self._explainer(key.method, key.options)
        explained = explainer(
            pixels,
            target=self._resolved(explainer, pixels, targets),
            # As if each picture were the first of its own run.
            numbers=[0] * len(pixels),
        )
        self.classes = explained.outputs.shape[1] if explained.outputs.ndim == 2 else 1
        return _rows(explained)

    def _resolved(
        self, explainer: PictureExplainer, pixels: Tensor, targets: list[int | None]
    ) -> list[int] | None:
        """A class for each picture, or None where `explain` is to find all of them."""
        if all(target is None for target in targets):
            return None
        if explainer.target is not None:
            return [explainer.target if t is None else t for t in targets]
        if None not in targets:
            return [t for t in targets if t is not None]
        predicted = self.explainer.predict(pixels).argmax(1).tolist()
        return [p if t is None else t for t, p in zip(targets, predicted, strict=True)]

    def _warm_up(self) -> None:
        size = self.preprocessing.size or ANY_SIZE
        self.explainer.fix(self.batcher.max_batch, size)
        if self.has_gradients:  # the answers of other models may be counted
            self._probabilities(torch.zeros(1, self.preprocessing.channels, *size))

    def _explainer(self, method: str, options: Options) -> PictureExplainer:
        """For the method that the server was started with, its options with others over them."""
        started = self.explainer
        if method == started.method and not options:
            return started
        found = self._explainers.get((method, options))
        if found is None:
            same = method == started.method
            found = PictureExplainer(
                started.model,
                started.device,
                method,
                target=started.target,
                baseline=started.baseline if same else None,
                gradient=started.gradient if same else None,
                output=started.output,
                precision=started.precision,
                compile=started.compile,
                **{**(started.options if same else {}), **dict(options)},
            )
            if started.plan is not None:
                plan = started.plan
                rows = plan.rows if same else max(plan.rows, FIRST_CHUNK_ROWS)
                found.follow(Plan(plan.memory_format, rows, plan.threads))
            self._explainers[method, options] = found
        self._explainers.move_to_end((method, options))
        while len(self._explainers) > _EXPLAINERS:
            self._explainers.popitem(last=False)
        return found

    # ---------------------------------------------------------------- about it

    def _count(self, key: Key, size: int, seconds: float) -> None:
        if key is _WARM_UP:
            return
        self.metrics.batch(key.method or "predict", size, seconds)
        # A mean of the latest batches; what it is for needs no more.
        self._seconds_per_picture += 0.2 * (seconds / size - self._seconds_per_picture)

    def _warmed_up(self, done: Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is None:
            self._open = not done.cancelled()
            return
        text = str(error) if isinstance(error, ModelFailed) else f"{type(error).__name__}: {error}"
        self.failure = text.splitlines()[0]

    def _options_of(self, method: str) -> dict[str, int]:
        combination = COMBINATIONS.get(method)
        kind = METHODS[method if combination is None else combination.method]
        own = self.explainer.options if method == self.explainer.method else {}
        found = {}
        for name in OPTION_BOUNDS:
            parameter = inspect.signature(kind.attribute).parameters.get(name)
            if parameter is not None:
                usual = own.get(name, parameter.default)
                found[name] = USUAL_QUERIES if usual is None else int(usual)
        return found

    def _check_offer(self, method: str) -> None:
        known = (*METHODS, *COMBINATIONS)
        if method not in known:
            raise ArgumentError(
                f"methods: must be among {', '.join(known)}, got {method!r}{near(method, known)}"
            )
        combination = COMBINATIONS.get(method)
        if combination is not None and combination.needed:
            raise ArgumentError(
                f"methods: must be methods that need nothing besides a model, got {method!r}; "
                "start the server with it"
            )


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[2]


def _rows(explanation: Explanation) -> list[PictureExplanation]:
    """One for each picture of a batch."""
    maps, pixels = explanation.attributions, explanation.inputs
    assert isinstance(maps, Tensor) and isinstance(pixels, Tensor)
    attributions = maps.detach().to("cpu", torch.float32).contiguous().numpy()
    shown = pixels.detach().to("cpu", torch.float32).contiguous().numpy()
    predictions = _predictions_of(explanation)
    several = predictions.shape[1] > 1
    rows = len(attributions)
    targets = [None] * rows if explanation.target is None else explanation.target.tolist()
    deltas = [None] * rows if explanation.delta is None else explanation.delta.tolist()
    names, cost = explanation.class_names, explanation.cost
    answers = []
    for row, (target, delta) in enumerate(zip(targets, deltas, strict=True)):
        own = predictions[row]
        probability = finite(float(own[target])) if several and target is not None else None
        answers.append(
            PictureExplanation(
                pixels=shown[row],
                attributions=attributions[row],
                method=explanation.method,
                target=target,
                class_name=class_name(names, target),
                probability=probability,
                delta=None if delta is None else finite(delta),
                prediction=own,
                gradients=cost.gradients // rows,
                queries=cost.queries // rows,
                seconds=cost.seconds,
                batch=rows,
            )
        )
    return answers


def _predictions_of(explanation: Explanation) -> NDArray[np.float32]:
    """Probabilities [B, n]; of a model with one output its outputs, [B, 1]."""
    outputs = explanation.outputs.detach()
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    if outputs.shape[1] > 1:
        kind = explanation.settings.get("output", "logit")
        if kind == "margin":
            # Logits less the largest, but for that one itself, whose margin is above zero.
            outputs = outputs.clamp(max=0.0)
        if kind != "prob":
            outputs = outputs.double().softmax(1)
    return outputs.to("cpu", torch.float32).numpy()


def finite(value: float) -> float | None:
    """None of what JSON has no number for."""
    return value if math.isfinite(value) else None


def class_name(names: Sequence[str] | None, target: int | None) -> str | None:
    if target is None:
        return None
    return names[target] if names is not None and target < len(names) else f"class {target}"
