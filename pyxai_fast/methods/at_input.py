"""The slope at the input itself: Saliency and Input x Gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import check_bool
from ..paths import StraightLine
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .gradient_method import GradientMethod, Recipe
from .loop import LoopOptions


def at_input(multiply_by_inputs: bool) -> Recipe:
    """One step of the straight line, taken at its end, is the input itself."""
    return Recipe(StraightLine(), 1, "riemann_right", multiply_by_inputs)


class Saliency(GradientMethod):
    """The gradient of the score at the input, by default its absolute value.

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2013), section 3. The
    constructor's arguments are those of GradientMethod.
    """

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        abs: bool = True,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | None = None,
        create_graph: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Gradients shaped as the inputs, in their dtype; absolute values unless abs=False.

        The other arguments are those of IntegratedGradients.attribute.
        """
        check_bool("attribute", "abs", abs)
        maps, errors = self._attribute(
            inputs,
            None,
            target,
            additional_forward_args,
            at_input(multiply_by_inputs=False),
            LoopOptions(
                internal_batch_size,
                self.memory_format,
                create_graph,
                show_progress,
                return_standard_error,
            ),
            Cost() if cost is None else cost,
            lambda grad, x: like(grad.abs() if abs else grad, x),
        )
        return (maps, errors) if return_standard_error else maps


class InputXGradient(GradientMethod):
    """Input times gradient: the contributions of a linear model with the input's own slope.

    Shrikumar et al., "Not Just a Black Box" (2016). The constructor's arguments are those of
    GradientMethod.
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | None = None,
        create_graph: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Attributions shaped as the inputs, in their dtype.

        The arguments are those of IntegratedGradients.attribute.
        """
        maps, errors = self._attribute(
            inputs,
            None,
            target,
            additional_forward_args,
            at_input(multiply_by_inputs=True),
            LoopOptions(
                internal_batch_size,
                self.memory_format,
                create_graph,
                show_progress,
                return_standard_error,
            ),
            Cost() if cost is None else cost,
            like,
        )
        return (maps, errors) if return_standard_error else maps


def like(result: Tensor, inputs: Tensor) -> Tensor:
    """In the type of the inputs, as captum returns it: one gradient is summed with no other."""
    return result.to(inputs.dtype) if inputs.is_floating_point() else result
