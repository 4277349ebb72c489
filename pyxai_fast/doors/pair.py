"""PAIR's saliency library, both ways.

Its methods know a model as a `call_model_function`, which answers arrays with a dictionary of
arrays. `call_model_function` makes one of a torch model; `from_call_model_function` makes of one,
whatever model hides behind it, a function that our methods differentiate.

saliency itself is not needed for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ArgumentError, is_one_of, near
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, Score, model_device, model_dtype, module_of
from ..runtime.inference import outside_inference_mode

# As in saliency.core.base, where each is a string of its own name.
INPUT_OUTPUT_GRADIENTS = "INPUT_OUTPUT_GRADIENTS"
OUTPUT_LAYER_VALUES = "OUTPUT_LAYER_VALUES"
CONVOLUTION_LAYER_VALUES = "CONVOLUTION_LAYER_VALUES"
CONVOLUTION_OUTPUT_GRADIENTS = "CONVOLUTION_OUTPUT_GRADIENTS"
KEYS = (
    INPUT_OUTPUT_GRADIENTS,
    OUTPUT_LAYER_VALUES,
    CONVOLUTION_LAYER_VALUES,
    CONVOLUTION_OUTPUT_GRADIENTS,
)
_OF_LAYER = (CONVOLUTION_LAYER_VALUES, CONVOLUTION_OUTPUT_GRADIENTS)
CHANNELS = ("last", "first")

Answer = dict[str, NDArray[Any]]
CallModelFunction = Callable[..., Mapping[str, Any]]


def call_model_function(
    model: ForwardFunc,
    target: Any = None,
    *,
    layer: str | nn.Module | None = None,
    channels: str = "last",
    output: str = "logit",
    select_output: Callable[[Any], Tensor] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Callable[..., Answer]:
    """A torch model as PAIR's methods ask it.

    Args:
        model: a module, or any differentiable function of a batch.
        target: which output is explained, as for `pyxai_fast.explain`, but None is for models with
            one output alone: the class must not change along a path. A call with
            ``call_model_args={"target": 3}`` explains that in its place.
        layer: whose output the convolution keys are about, a module or its name in the model; by
            default the convolution that was made last.
        channels: "last" where PAIR's arrays are pictures [H, W, C], which its methods for pictures
            expect; "first" where they are [C, H, W]. Arrays of other dimensions stay as they are.
        output, select_output, preprocessing: as for `pyxai_fast.explain`.

    Returns:
        ``call(x_value_batch, call_model_args=None, expected_keys=None)``, which answers the keys
        that are expected, or gradients and scores where none are named:

        - INPUT_OUTPUT_GRADIENTS, shaped as x_value_batch
        - OUTPUT_LAYER_VALUES, [B]
        - CONVOLUTION_LAYER_VALUES and CONVOLUTION_OUTPUT_GRADIENTS, [B, H, W, C]: GradCam averages
          over the second and third dimension, whatever `channels` is

    Raises:
        ValueError, TypeError: naming the argument, what it must be and what it is.

    Example:
        >>> import saliency.core as saliency  # doctest: +SKIP
        >>> call = call_model_function(model, target=3)  # doctest: +SKIP
        >>> saliency.XRAI().GetMask(picture, call)  # doctest: +SKIP
    """
    _check_channels("call_model_function", channels)
    if not callable(model):
        raise TypeError(f"call_model_function: model must be callable, got {type(model).__name__}")
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "call_model_function: preprocessing must be a Preprocessing, got "
            f"{type(preprocessing).__name__}"
        )
    if select_output is not None and not callable(select_output):
        raise TypeError(
            "call_model_function: select_output must be a function of what the model returns, got "
            f"{type(select_output).__name__}"
        )
    place = None if layer is None else _layer(model, layer)

    @outside_inference_mode
    def call(
        x_value_batch: Any, call_model_args: Any = None, expected_keys: Sequence[str] | None = None
    ) -> Answer:
        keys = _keys(expected_keys)
        for key in keys:
            if not is_one_of(key, KEYS):
                raise ArgumentError(
                    f"call_model_function: expected_keys must be among {', '.join(KEYS)}, got "
                    f"{key!r}{near(str(key), KEYS)}"
                )
        chosen = target
        if isinstance(call_model_args, Mapping) and "target" in call_model_args:
            chosen = call_model_args["target"]
        x = _as_torch(x_value_batch, channels, model)
        score = Score(model, len(x), x.device, chosen, output=output, select_output=select_output)
        slopes = INPUT_OUTPUT_GRADIENTS in keys or CONVOLUTION_OUTPUT_GRADIENTS in keys
        watched = None
        if any(key in _OF_LAYER for key in keys):
            watched = _layer(model, layer) if place is None else place
        with torch.set_grad_enabled(slopes), _output_of(watched) as seen:
            x.requires_grad_(slopes)
            points = x if preprocessing is None else preprocessing.normalise(x)
            scores = score.rows(slice(0, len(x)))((points,))
        if watched is not None and not seen:
            raise ArgumentError(
                f"call_model_function: layer must be one that the model runs, got {layer!r}"
            )
        answer: Answer = {}
        if OUTPUT_LAYER_VALUES in keys:
            answer[OUTPUT_LAYER_VALUES] = scores.detach().cpu().numpy()
        if CONVOLUTION_LAYER_VALUES in keys:
            answer[CONVOLUTION_LAYER_VALUES] = _as_numpy(seen[-1], "last")
        asked = {INPUT_OUTPUT_GRADIENTS: (x, channels)}
        if seen:
            asked[CONVOLUTION_OUTPUT_GRADIENTS] = (seen[-1], "last")
        asked = {key: value for key, value in asked.items() if key in keys}
        if asked:
            of = [tensor for tensor, _ in asked.values()]
            found = torch.autograd.grad(scores.sum(), of, materialize_grads=True)
            for (key, (_, where)), slope in zip(asked.items(), found, strict=True):
                answer[key] = _as_numpy(slope, where)
        return answer

    return call


class CalledModel:
    """The score behind a call_model_function, as a differentiable function of inputs.

    Rows [R, ...] have scores [R]. Slopes are those that the function gives, asked for together with
    the scores; they are no further differentiable. See `from_call_model_function`.
    """

    def __init__(
        self, function: CallModelFunction, call_model_args: Any, channels: str, has_values: bool
    ) -> None:
        self.function = function
        self.call_model_args = call_model_args
        self.channels = channels
        self.has_values = has_values

    def __call__(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and inputs.requires_grad:
            scores: Tensor = _ScoresWithSlopes.apply(inputs, self)
            return scores
        return self.ask(inputs, slopes=False)[0]

    def ask(self, inputs: Tensor, slopes: bool) -> tuple[Tensor, Tensor | None]:
        """Scores [R], and slopes shaped as the inputs where they are asked for."""
        keys = [OUTPUT_LAYER_VALUES] * self.has_values + [INPUT_OUTPUT_GRADIENTS] * slopes
        if not keys:
            return inputs.new_full((len(inputs),), torch.nan), None
        batch = _as_numpy(inputs, self.channels)
        answer = self.function(batch, call_model_args=self.call_model_args, expected_keys=keys)
        if not isinstance(answer, Mapping):
            raise TypeError(
                "from_call_model_function: the function must answer a dictionary, got "
                f"{type(answer).__name__}"
            )
        for key in keys:
            if key not in answer:
                hint = "; give has_values=False" if key == OUTPUT_LAYER_VALUES else ""
                raise ArgumentError(
                    f"from_call_model_function: the function must answer {key}, got "
                    f"{', '.join(map(str, answer)) or 'nothing'}{hint}"
                )
        return self._values(answer, inputs), self._slopes(answer, inputs) if slopes else None

    def _values(self, answer: Mapping[str, Any], inputs: Tensor) -> Tensor:
        if not self.has_values:
            return inputs.new_full((len(inputs),), torch.nan)
        values = _numbers(
            "from_call_model_function", OUTPUT_LAYER_VALUES, answer[OUTPUT_LAYER_VALUES]
        )
        if values.shape not in ((len(inputs),), (len(inputs), 1)):
            raise ArgumentError(
                f"from_call_model_function: {OUTPUT_LAYER_VALUES} must be [{len(inputs)}], the "
                f"output that is explained, got {list(values.shape)}"
            )
        return values.reshape(-1).to(inputs)

    def _slopes(self, answer: Mapping[str, Any], inputs: Tensor) -> Tensor:
        slopes = _numbers(
            "from_call_model_function", INPUT_OUTPUT_GRADIENTS, answer[INPUT_OUTPUT_GRADIENTS]
        ).to(inputs)
        if slopes.dim() == 4 and self.channels == "last":
            slopes = slopes.movedim(-1, 1)
        if slopes.shape != inputs.shape:
            raise ArgumentError(
                f"from_call_model_function: {INPUT_OUTPUT_GRADIENTS} must be shaped as the rows "
                f"asked about, {list(_as_numpy(inputs, self.channels).shape)}, got "
                f"{list(np.shape(answer[INPUT_OUTPUT_GRADIENTS]))}"
            )
        return slopes


def from_call_model_function(
    function: CallModelFunction,
    call_model_args: Any = None,
    *,
    channels: str = "last",
    has_values: bool = True,
) -> CalledModel:
    """What a call_model_function explains, as a function that our methods take.

    So a model of TensorFlow or JAX, for which somebody has written such a function, is explained by
    every method here: those with slopes use the function's own.

    Args:
        function: ``function(x_value_batch, call_model_args=..., expected_keys=[...])``, answering
            OUTPUT_LAYER_VALUES [R], of the output that is explained, and INPUT_OUTPUT_GRADIENTS.
        call_model_args: passed on with every call; they say which output that is.
        channels: "last" where the function takes pictures [R, H, W, C], which are [R, C, H, W] for
            our methods; "first" where it takes what they take.
        has_values: False for a function that gives slopes alone. Scores are NaN then, and so are
            completeness gaps; maps of methods with slopes are not.

    Returns:
        A function of [R, ...], with scores [R]: explained without a target.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is; also when it is
            called, for answers that do not fit.

    Example:
        >>> score = from_call_model_function(call, {"class": 3})  # doctest: +SKIP
        >>> pyxai_fast.explain(score, pictures, method="guided_ig")  # doctest: +SKIP
    """
    _check_channels("from_call_model_function", channels)
    if not callable(function):
        raise TypeError(
            f"from_call_model_function: function must be a callable, got {type(function).__name__}"
        )
    return CalledModel(function, call_model_args, channels, has_values)


class _ScoresWithSlopes(torch.autograd.Function):
    """Scores whose slopes came with them."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, model: CalledModel) -> Tensor:
        scores, slopes = model.ask(inputs, slopes=True)
        ctx.save_for_backward(slopes)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise ArgumentError(
                "from_call_model_function: create_graph must be False, because the function's "
                "slopes are numbers, which cannot be differentiated, got True"
            )
        (slopes,) = ctx.saved_tensors
        return slopes * grad.reshape(-1, *[1] * (slopes.dim() - 1)), None


def _check_channels(op: str, channels: Any) -> None:
    if not is_one_of(channels, CHANNELS):
        raise ArgumentError(
            f"{op}: channels must be one of {', '.join(CHANNELS)}, got {channels!r}"
        )


def _keys(expected: Any) -> tuple[Any, ...]:
    if expected is None:
        return INPUT_OUTPUT_GRADIENTS, OUTPUT_LAYER_VALUES
    if not isinstance(expected, Iterable) or isinstance(expected, (str, Tensor)):
        raise TypeError(
            "call_model_function: expected_keys must be a list of keys, got "
            f"{type(expected).__name__}"
        )
    return tuple(expected) or (INPUT_OUTPUT_GRADIENTS, OUTPUT_LAYER_VALUES)


def _as_torch(batch: Any, channels: str, model: ForwardFunc) -> Tensor:
    """A leaf [B, ...] on the model's device, in its type, channels first."""
    x = _numbers("call_model_function", "x_value_batch", batch)
    if not x.dim():
        raise ArgumentError("call_model_function: x_value_batch must be [B, ...], got a number")
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    x = x.to(model_device(model), model_dtype(model) or x.dtype)
    return x.movedim(-1, 1).contiguous() if x.dim() == 4 and channels == "last" else x


def _numbers(op: str, name: str, values: Any) -> Tensor:
    """An array as a tensor of its own."""
    try:
        x = torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: {name} must be an array of numbers, got {type(values).__name__}"
        ) from error
    if x.is_complex():
        raise TypeError(f"{op}: {name} must be real, got {x.dtype}")
    return x


def _as_numpy(x: Tensor, channels: str) -> NDArray[Any]:
    x = x.detach().cpu()
    x = x.float() if x.dtype == torch.bfloat16 else x
    if x.dim() == 4 and channels == "last":
        x = x.movedim(1, -1)
    return np.ascontiguousarray(x.numpy())


def _layer(model: ForwardFunc, layer: str | nn.Module | None) -> nn.Module:
    """The module that is meant.

    Raises:
        ValueError: there is none.
    """
    if isinstance(layer, nn.Module):
        return layer
    whole = module_of(model)
    parts: dict[str, nn.Module] = {} if whole is None else dict(whole.named_modules())
    if layer is None:
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        found = [part for part in parts.values() if isinstance(part, kinds)]
        if not found:
            raise ArgumentError(
                "call_model_function: layer must be given for a model without convolutions of its "
                "own, got None"
            )
        return found[-1]
    if not is_one_of(layer, parts):
        raise ArgumentError(
            f"call_model_function: layer must be one of the model's, got {layer!r}"
            f"{near(str(layer), parts)}"
        )
    return parts[layer]


@contextmanager
def _output_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """What a layer answers while this lasts."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return

    def keep(_: nn.Module, __: Any, answer: Tensor) -> Tensor:
        seen.append(answer)
        return answer.clone()  # what comes next may write over it

    handle = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
