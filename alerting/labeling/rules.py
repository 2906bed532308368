"""What the queue asks of labelers: how long, how many, how often twice. One set of rules holds for every dataset."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds

Share = Annotated[float, Meta(ge=0, le=1)]
Cap = Annotated[int, Meta(ge=0)]


class Purse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hard stop, counted in labels asked of people: first labels, second ones, canaries and reviews alike. Each
    dataset has a purse of its own; hours, days and months are those of UTC. With any limit labelers are kept busy up
    to it, from the draws' reserves and with second labels; without one they get what sampling draws."""

    per_hour: Annotated[Cap | None, Meta(description="Labels in an hour at most; empty: no limit.")] = None
    per_day: Annotated[Cap | None, Meta(description="In a day.")] = None
    per_month: Annotated[Cap | None, Meta(description="In a month.")] = None
    price: Annotated[float, Meta(ge=0, description="Of one label, in the currency of `money`.")] = 0.0
    money: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="To spend in a month at most; empty: no limit.")
    ] = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(cap is not None for cap in self.caps)

    @property
    def caps(self) -> tuple[int | None, int | None, int | None]:
        """Labels in an hour, a day, a month."""
        months = [self.per_month] if self.per_month is not None else []
        if self.money is not None and self.price > 0:
            months.append(int(self.money / self.price))
        return self.per_hour, self.per_day, min(months, default=None)


class QueueRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the queue works with labelers."""

    lease: Annotated[
        Seconds, Meta(gt=0, description="How long a labeler has for a task before it goes to somebody else.")
    ] = 900.0
    show_prediction: Annotated[
        bool, Meta(description="Show labelers what the model answered; who sees it leans towards it.")
    ] = False
    asked_share: Annotated[
        Share,
        Meta(description="Turns of tasks that alerts, rules and feedback ask for; the rest serves the random draw."),
    ] = 0.3
    overlap: Annotated[Share, Meta(description="Tasks, at random, that two people label whatever the first says.")] = (
        0.05
    )
    sure: Annotated[
        float,
        Meta(
            ge=0.5,
            lt=1,
            description="Chance that the labels' vote is right below which another label is asked for.",
        ),
    ] = 0.9
    most_labels: Annotated[int, Meta(ge=1, le=9, description="Labels of a task at most that doubt may ask for.")] = 3
    review: Annotated[Share, Meta(description="Finished tasks, at random, that a reviewer looks at.")] = 0.05
    known_share: Annotated[
        Share, Meta(description="Turns of hidden tasks with a known label, as long as some are planted.")
    ] = 0.02
    recheck: Annotated[
        bool, Meta(description="Ask again for labeled tasks when nothing else is left, so that nobody waits.")
    ] = True
    open_for: Annotated[Seconds, Meta(gt=0, description="Time after which a task that nobody has labeled expires.")] = (
        7 * 86400.0
    )
    keep: Annotated[
        Seconds, Meta(gt=0, description="How long a finished task is kept; retraining reads its label from here.")
    ] = 365 * 86400.0
    purse: Annotated[Purse, Meta(description="Hard limits.")] = Purse()
