"""Dropout that is left on, and falls alike for the same event whatever rows stand beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: Keys) -> Keys:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): one changed bit changes half of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def kept(keys: Keys, layer: int, units: int, p: float) -> NDArray[np.bool_]:
    """Which units (n, units) of a layer stay for the rows of these keys; each falls with chance `p`.

    >>> keys = np.arange(3, dtype=np.uint64); kept(keys, 0, 4, 0.5).astype(int).tolist()
    [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]
    >>> bool((kept(keys[1:], 0, 4, 0.5) == kept(keys, 0, 4, 0.5)[1:]).all())
    True
    """
    unit = _mixed((np.arange(units, dtype=np.uint64) + np.uint64((layer + 1) << 40)) * _STEP)
    return np.asarray(_mixed(keys[:, None] ^ unit[None, :]) >= np.uint64(int(p * 2.0**64)))


class Dropout:
    """The dropout layers of a member. They do nothing until keys are set, one for each row of the next forward."""

    def __init__(self) -> None:
        self.layers = 0
        self._keys: Keys | None = None

    def set(self, keys: Keys | None, turn: int = 0) -> None:
        """Rows by their events' keys, asked for the `turn`-th time; None turns dropout off."""
        self._keys = None if keys is None else _mixed(keys + np.uint64(turn * int(_STEP) % 2**64))

    def layer(self) -> int:
        """A number for one more layer."""
        self.layers += 1
        return self.layers - 1

    def apply(self, layer: int, rows: Any, p: float, units: int | None = None) -> Any:
        """A tensor (n, ...) with units left out and the rest scaled up. `units`: only so many fall, each with all that
        is behind it (channels of a picture)."""
        if self._keys is None or p <= 0:
            return rows
        import torch

        if len(rows) != len(self._keys):
            raise ValueError(f"dropout over {len(rows)} rows, where {len(self._keys)} were asked: rows come first")
        shape = rows.shape if units is None else (len(rows), units, *[1] * (rows.dim() - 2))
        mask = kept(self._keys, layer, int(np.prod(shape[1:])), p).reshape(shape)
        return rows * torch.from_numpy(mask).to(rows.device, rows.dtype) / (1.0 - p)

    def hook(self, module: Any) -> None:
        """Puts itself behind every dropout layer of a module in evaluation mode; those that are called as functions
        stay off."""
        from torch import nn

        for part in module.modules():
            if isinstance(part, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
                part.register_forward_hook(self._behind(self.layer(), part.p, plain=isinstance(part, nn.Dropout)))

    def _behind(self, layer: int, p: float, *, plain: bool) -> Any:
        def behind(_module: Any, _given: Any, output: Any) -> Any:
            return self.apply(layer, output, p, None if plain else output.shape[1])

        return behind
