"""A model and a method, ready for batches of pictures: what commands, jobs and servers run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .combinations import COMBINATIONS
from .errors import ArgumentError
from .explanation import Explanation
from .front_door import explain
from .gradients import Gradient
from .methods import METHODS
from .models.black_box import BlackBox
from .models.loaded import LoadedModel
from .models.outputs import convert_output, output_tensor
from .models.preprocessing import Preprocessing
from .runtime.chunks import FIRST_CHUNK_ROWS

Baseline = Callable[[Tensor, Preprocessing], Any]


@dataclass(frozen=True)
class Plan:
    """What is measured before the first batch, and changes the last bits of what is computed.

    Attributes:
        memory_format: "contiguous" or "channels_last".
        rows: sent through the model at once, at most.
        threads: of torch, on a CPU.
    """

    memory_format: str
    rows: int
    threads: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class PictureExplainer:
    """Explains batches of pictures with one model, one method and its options.

    Args:
        model: as load_model gives it.
        device: where it is.
        method: one of pyxai_fast.METHODS, or another name that `explain` knows.
        target: the class to explain where a call names none; None explains the predicted class.
        baseline: of `explain`, or a function of pixels [B, C, H, W] and the preprocessing that
            gives it.
        gradient, output: of `explain`.
        precision, compile: of the network; see `pyxai_fast.prepare`.
        options: any other option of `explain`.

    Attributes:
        plan: what is fixed for all batches; None until `fix` or `follow`.
    """

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device | str = "cpu",
        method: str = "integrated_gradients",
        *,
        target: int | None = None,
        baseline: Any = None,
        gradient: str | Gradient | None = None,
        output: str | None = None,
        precision: str = "fp32",
        compile: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.method = method
        self.target = target
        self.baseline = baseline
        self.gradient = gradient
        self.output = output
        self.precision = precision
        self.compile = compile
        self.options = options
        self.plan: Plan | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        return self.model.preprocessing

    @property
    def class_names(self) -> list[str] | None:
        return self.model.class_names

    def __call__(
        self,
        pixels: Tensor,
        *,
        target: Any = None,
        numbers: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Explanation:
        """Explains pixels [B, C, H, W], float32 in [0, 1].

        Args:
            target: the class to explain, for all or one for each.
            numbers: of the pictures, among all that are to be explained, so that a picture's map
                does not depend on what is explained beside it where the method draws at random.
            progress: a progress bar.

        Raises:
            TypeError, ValueError: of `explain`.
            QueryError: a model that only answers could not.
        """
        options = dict(self.options)
        numbers = options.pop("numbers", numbers)  # that were asked for go before
        if self.plan is not None:
            options["memory_format"] = self.plan.memory_format
            if "internal_batch_size" in _parameters(self.method):
                options["internal_batch_size"] = self.plan.rows
        pixels = pixels.to(self.device, non_blocking=True)
        baselines = self.baseline
        if callable(baselines):
            baselines = baselines(pixels, self.preprocessing)
        return explain(
            self.model.module,
            pixels,
            method=self.method,
            target=self.target if target is None else target,
            baselines=baselines,
            gradient=self.gradient,
            preprocessing=self.preprocessing,
            output=self.output,
            class_names=self.class_names,
            numbers=numbers,
            precision=self.precision,
            compile=self.compile,
            progress=progress,
            **options,
        )

    def predict(self, pixels: Tensor) -> Tensor:
        """The probabilities of the classes, [B, n], for pixels [B, C, H, W]; of a model with one
        output, its outputs as they are."""
        pixels = pixels.to(self.device, non_blocking=True)
        with torch.no_grad():
            answer = output_tensor(self.model.module(self.preprocessing.normalise(pixels)), None)
        several = answer.dim() == 2 and answer.shape[1] > 1
        return convert_output(answer, "prob") if several else answer

    def fix(self, batch: int, size: tuple[int, int] | None = None) -> Plan:
        """Measures what is to be measured, on made-up pictures, and fixes it for all to come.

        Args:
            batch: pictures in a batch.
            size: (height, width) of pictures for a model that takes any; its own by default.
        """
        if isinstance(self.model.module, BlackBox):  # whose answers may be counted
            self.follow(Plan("contiguous", FIRST_CHUNK_ROWS, torch.get_num_threads()))
            assert self.plan is not None
            return self.plan
        size = self.preprocessing.size or size
        if size is None:
            raise ArgumentError(
                "PictureExplainer.fix: size must be given for a model that takes pictures of any "
                "size, got None"
            )
        made_up = torch.rand(
            batch, self.preprocessing.channels, *size, generator=torch.Generator().manual_seed(0)
        )
        cost = self(made_up, numbers=range(batch)).cost
        # Once more: what is known now makes the chunks as they are going to be.
        cost = self(made_up, numbers=range(batch)).cost
        self.follow(Plan(cost.memory_format, cost.rows_per_chunk, torch.get_num_threads()))
        assert self.plan is not None
        return self.plan

    def follow(self, plan: Plan) -> None:
        """Fixes what was measured elsewhere: the same bits on the same kind of machine.

        Sets torch's number of threads, for the whole process.
        """
        self.plan = plan
        if torch.get_num_threads() != plan.threads:
            torch.set_num_threads(plan.threads)

    def close(self) -> None:
        """Lets go of what a model that only answers holds."""
        if isinstance(self.model.module, BlackBox):
            self.model.module.close()


def _parameters(method: str) -> set[str]:
    name = COMBINATIONS[method].method if method in COMBINATIONS else method
    return set(inspect.signature(METHODS[name].attribute).parameters)
