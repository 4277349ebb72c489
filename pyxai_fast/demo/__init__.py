"""A small real model on real images, to see attributions without downloading anything.

``python -m pyxai_fast.demo --out demo`` explains scanned handwritten digits with every method of
the library. The weights are part of the package; :mod:`pyxai_fast.demo.train` makes them again.
"""

from __future__ import annotations

from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import DigitsCNN, load_demo_model, load_demo_recipe

__all__ = ["DigitsCNN", "load_demo_model", "load_demo_recipe", "load_digits"]
