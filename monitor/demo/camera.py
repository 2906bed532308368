"""Pictures of the shelf, and the numbers about a picture that an operator understands.

Products are scikit-learn's handwritten digits (8 x 8 pixels). A shelf camera sees the same products again and again,
each time a little differently: so a picture is a product drawn with replacement, under the light of the moment, with
the sensor's noise. Commissioning and service draw from the same products, so calm is calm by construction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from detectors.core import Floats, Ints

KNOWN = 8  # classes 0..7 are in the assortment when the model is trained; 8 and 9 are the new products
_SIDE = 8
# Nominal exposure: a pixel of 0..16 becomes 0.1 + 0.6 * pixel/16. Under GAIN and OFFSET the brightest is 0.89 plus
# light and noise, so nothing is clipped and the change stays affine.
_BLACK, _SPAN = 0.1, 0.6
_LIGHT, _NOISE = 0.04, 0.02  # standard deviations: of the light, relative and per picture; of the sensor, per pixel

_ROWS, _COLUMNS = np.mgrid[0:_SIDE, 0:_SIDE]


class Products(NamedTuple):
    """Pictures as printed (n, 64), pixels 0..1, and what they show."""

    pixels: Floats
    labels: Ints

    def where(self, rows: NDArray[np.bool_]) -> Products:
        return Products(self.pixels[rows], self.labels[rows])


def assortment(seed: int) -> tuple[Products, Products, Products]:
    """Products to train on, others of the same classes for the shelf, and those of the classes never trained on."""
    digits = load_digits()
    whole = Products(digits.data / 16.0, digits.target.astype(np.int64))
    known = whole.labels < KNOWN
    training = np.random.default_rng([seed, 1]).random(len(known)) < 0.5
    return whole.where(known & training), whole.where(known & ~training), whole.where(~known)


def shoot(products: Products, n: int, rng: np.random.Generator) -> Products:
    """`n` pictures (n, 64) of products drawn with replacement, as a healthy camera takes them."""
    drawn = rng.integers(len(products.labels), size=n)
    light = 1.0 + _LIGHT * rng.standard_normal((n, 1))
    noise = _NOISE * rng.standard_normal((n, _SIDE * _SIDE))
    return Products((_BLACK + _SPAN * products.pixels[drawn]) * light + noise, products.labels[drawn])


def measure(pixels: Floats) -> dict[str, Floats]:
    """The named numbers (n,) about each picture (n, 64) that travel as the model's inputs.

    Ink is what is brighter than the picture's own black by a quarter of the nominal range, so it hardly feels the
    light; brightness, the rows and the columns do.
    """
    image = pixels.reshape(-1, _SIDE, _SIDE)
    black = np.quantile(pixels, 0.1, axis=1)
    ink = np.clip(image - black[:, None, None] - _SPAN / 4, 0.0, None)
    mass = ink.sum(axis=(1, 2)) + 1e-9
    features = {
        "brightness": pixels.mean(axis=1),
        "contrast": pixels.std(axis=1),
        "darkest": pixels.min(axis=1),
        "brightest": pixels.max(axis=1),
        "ink_area": (ink > 0).mean(axis=(1, 2)),
        "center_x": (ink * _COLUMNS).sum(axis=(1, 2)) / mass,
        "center_y": (ink * _ROWS).sum(axis=(1, 2)) / mass,
        "symmetry": np.abs(image - image[:, :, ::-1]).mean(axis=(1, 2)),
        "edge_energy": np.abs(np.diff(image, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(image)).mean(axis=(1, 2)),
    }
    features |= {f"row_{i + 1}": image[:, i].mean(axis=1) for i in range(_SIDE)}
    features |= {f"column_{i + 1}": image[:, :, i].mean(axis=1) for i in range(_SIDE)}
    return features
