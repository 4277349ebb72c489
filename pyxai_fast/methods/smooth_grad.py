"""SmoothGrad: the mean gradient over noisy copies of the input."""

from __future__ import annotations

from typing import Any

from ..paths import GaussianNeighbourhood
from ..paths.quadrature import check_quadrature
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .gradient_method import GradientMethod, Recipe
from .loop import LoopOptions


class SmoothGrad(GradientMethod):
    """Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), equation 1.

    The constructor's arguments are those of GradientMethod.
    """

    def check_call(self, n_samples: int = 50, sigma: float = 0.15, **options: Any) -> None:
        check_quadrature("riemann_middle", n_samples, "n_samples")
        GaussianNeighbourhood(sigma)

    def steps_of(self, n_samples: int = 50, **options: Any) -> int:
        return n_samples

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        sigma: float = 0.15,
        seed: int = 0,
        *,
        internal_batch_size: int | None = None,
        create_graph: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Mean gradients shaped as the inputs.

        Args:
            n_samples: noisy copies of each example.
            sigma: standard deviation of the noise, in the units of the inputs.
            seed: of the noise; the same seed gives the same noise for every choice of chunks.
            inputs, target, additional_forward_args, internal_batch_size, create_graph,
                show_progress, return_standard_error, cost: as in IntegratedGradients.attribute.
        """
        self.check_call(n_samples, sigma)
        maps, errors = self._attribute(
            inputs,
            None,
            target,
            additional_forward_args,
            Recipe(
                GaussianNeighbourhood(sigma, seed, self.numbers), n_samples, "riemann_middle", False
            ),
            LoopOptions(
                internal_batch_size,
                self.memory_format,
                create_graph,
                show_progress,
                return_standard_error,
            ),
            Cost() if cost is None else cost,
        )
        return (maps, errors) if return_standard_error else maps
