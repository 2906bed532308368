"""Whether a mean has fallen, told by estimates that come one after the other, whoever looks whenever."""

from __future__ import annotations

import msgspec
import numpy as np

BETS = np.array([0.3, 0.6, 1.2, 2.4])  # against falls of so many standard errors: one of them is within 1.4 of any
SHORTEST = 5.0  # standard errors of one estimate that count: its error is itself an estimate
CAP = 1000.0  # times the promise: evidence beyond says nothing more, and would outlast the return to calm


class Falling(msgspec.Struct, frozen=True):
    """Evidence that a mean lies under what it may be: sums over fixed bets, an e-detector. Plain data.

    While estimates are unbiased, not too skewed, and the mean is as high as it may be, a limit of `promise` is passed
    once in as many estimates on average, or less often (Shin, Ramdas, Rinaldo 2022; Shiryaev-Roberts sums of Gaussian
    bets, so approximate where an estimate rests on few labels). Blind to a fall whose estimates are all uncertain, and
    to one under the margin that the caller takes off.
    """

    sums: tuple[float, ...] = (0.0,) * len(BETS)

    def after(self, shortfall: float, promise: float) -> Falling:
        """One more estimate: how far it is under what it may be, in standard errors.

        >>> fallen = Falling()
        >>> for _ in range(6): fallen = fallen.after(2.0, 1000.0)
        >>> round(fallen.evidence), round(Falling().after(-2.0, 1000.0).evidence, 2)
        (37027, 0.21)
        """
        won = np.exp(BETS * min(shortfall, SHORTEST) - BETS**2 / 2.0)
        return Falling(tuple(np.minimum((np.array(self.sums) + 1.0) * won, CAP * promise).tolist()))

    @property
    def evidence(self) -> float:
        """The mean of the bets' sums."""
        return sum(self.sums) / len(self.sums)
