"""How many labels may be asked for: tokens by period, in labels and in money.

Tokens come evenly in event time and what is not used is kept for one period at most, so in any stretch of time at most
its own budget and one period's more is asked. A draw that would overspend any period is cut, whatever the others hold.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from detectors.units import Seconds

PERIODS = {"hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
REPAID = 0.5  # of the usual rate, that is held back after a burst until it is paid


class BudgetOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds besides labels an hour, each of its own; what a labeler is paid counts where it is told."""

    per_day: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Labels in 24 hours of event time; empty: no bound.")
    ] = None
    per_month: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Labels in 30 days; empty: no bound.")
    ] = None
    price: Annotated[float, Meta(description="Of one label, in any currency; 0: they cost nothing.", ge=0)] = 0.0
    spend_per_day: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Money in 24 hours; empty: no bound. Needs a price.")
    ] = None
    spend_per_month: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Money in 30 days; empty: no bound. Needs a price.")
    ] = None
    burst: Annotated[
        float, Meta(description="Times the hourly rate while an alert is open; 1: no burst.", ge=1, le=10)
    ] = 2.0
    burst_for: Annotated[
        Seconds,
        Meta(description="Longest burst of one alert; what it took is held back afterwards.", ge=0),
    ] = 86400.0

    def __post_init__(self) -> None:
        if not self.price and (self.spend_per_day or self.spend_per_month):
            raise ValueError("a bound on money needs the `price` of a label")


class Purse(msgspec.Struct):
    """Tokens by period, and what a burst took ahead. Plain data, saved with the judge's checkpoint."""

    tokens: dict[str, float] = {}
    bursting: float = 0.0  # seconds since the burst began
    owed: float = 0.0  # seconds of the hourly rate that a burst took ahead
    spent: int = 0  # labels in all

    def earn(self, seconds: float, per_hour: float, options: BudgetOptions, *, alarmed: bool) -> None:
        """Time passed, with an alert open or without."""
        limits = _limits(per_hour, options)
        for name, (limit, period) in limits.items():
            paced = self._paced(seconds, options, alarmed=alarmed) if name == "hour" else seconds
            # one label at least, or a budget of less than one a period would never have any
            self.tokens[name] = min(self.tokens.get(name, 0.0) + paced * limit / period, max(limit, 1.0))
        for name in self.tokens.keys() - limits.keys():
            del self.tokens[name]  # a bound that was taken back

    def _paced(self, seconds: float, options: BudgetOptions, *, alarmed: bool) -> float:
        if alarmed and options.burst > 1.0:
            burst = max(0.0, min(seconds, options.burst_for - self.bursting))
            self.bursting += seconds
            self.owed += burst * (options.burst - 1.0)
            return seconds + burst * (options.burst - 1.0)
        if not alarmed:
            self.bursting = 0.0
            repaid = min(self.owed, seconds * REPAID)
            self.owed -= repaid
            return seconds - repaid
        return seconds

    @property
    def labels(self) -> int:
        """That may be asked for now."""
        return int(min(self.tokens.values(), default=0.0) + 1e-9)

    def spend(self, labels: int) -> None:
        """They were asked for."""
        self.spent += labels
        for name in self.tokens:
            self.tokens[name] -= labels


def _limits(per_hour: float, options: BudgetOptions) -> dict[str, tuple[float, float]]:
    """Labels and length in seconds, of each period that bounds anything."""
    bounds: dict[str, list[float | None]] = {
        "hour": [per_hour],
        "day": [options.per_day, _afforded(options.spend_per_day, options.price)],
        "month": [options.per_month, _afforded(options.spend_per_month, options.price)],
    }
    found = {name: [bound for bound in some if bound is not None] for name, some in bounds.items()}
    return {name: (min(some), PERIODS[name]) for name, some in found.items() if some}


def _afforded(money: float | None, price: float) -> float | None:
    return None if money is None else money / price
