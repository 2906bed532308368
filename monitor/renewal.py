"""What a model's alerts and labels lead to: a campaign of labeling, requests to retrain, versions compared.

The judge holds one `Renewal` a model and feeds it what it judges; the parts know of each other only here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from alerting import lifecycle
from alerting.alert import Look, Symptom
from alerting.labeling.task import Draw, Returned
from alerting.retraining import Request, Step, Word
from detectors.profile import Profile
from detectors.reference import Reference
from monitor import campaign, comparison, retraining
from monitor.campaign import Labeling
from monitor.comparison import CompareOptions, Comparison
from monitor.retraining import Performance, Retraining, RetrainingOptions, Seen
from monitor.scopes import Slice
from monitor.snapshot import ComparisonView, RenewalView, RequestView
from monitor.versions import Met

LISTED = 10  # requests shown, the newest


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    retraining: retraining.State
    labeling: campaign.State
    comparison: comparison.State | None
    words: dict[str, Word] = {}  # the last word of a training that came to its end, by version


class Turn(msgspec.Struct):
    """What a window or a word leads to."""

    requests: list[Request] = []
    draws: list[Draw] = []
    symptoms: list[Symptom] = []
    deployed: str | None = None  # a version that came into service
    answered: bool = False  # it answers a request: the reference is to be its own


class Renewal:
    """One model's. Every method is called on the judge's thread, in the order of the exchange."""

    def __init__(
        self,
        model: str,
        dataset: str,
        options: RetrainingOptions,
        compare: CompareOptions | None,
        label_price: float,
        protected: Mapping[str, Slice] = {},
    ) -> None:
        self._model = model
        self._retraining = Retraining(model, options)
        self._labeling = Labeling(model, options.stop, label_price)
        self._comparison = None if compare is None else Comparison(model, dataset, compare, protected)
        self._words: dict[str, Word] = {}

    @property
    def state(self) -> State:
        """Plain data to go on from."""
        compared = None if self._comparison is None else self._comparison.state
        return State(self._retraining.state, self._labeling.state, compared, self._words)

    @state.setter
    def state(self, state: State) -> None:
        self._retraining.state, self._labeling.state = state.retraining, state.labeling
        self._words = state.words
        if self._comparison is not None and state.comparison is not None:
            self._comparison.resume(state.comparison)

    @property
    def requests(self) -> Sequence[Request]:
        """Oldest first."""
        return self._retraining.state.requests

    @property
    def comparison(self) -> ComparisonView | None:
        """How the versions that are compared stand."""
        return None if self._comparison is None else self._comparison.view

    @property
    def looks(self) -> list[Look]:
        """Those that each window takes."""
        looks = [Look(self._model, retraining.CHECK), Look(self._model, campaign.CHECK)]
        return looks if self._comparison is None else [*looks, self._comparison.look_name]

    @property
    def labeling(self) -> bool:
        """Whether a campaign goes on: it asks for more labels than usual."""
        return self._labeling.campaign is not None

    def take_met(self, met: Iterable[Met]) -> None:
        """How versions' answers to the same events differed."""
        if self._comparison is not None:
            self._comparison.take_met(met)

    def take_labels(self, returned: Sequence[Returned]) -> None:
        """Final labels."""
        self._retraining.take_labels(returned)
        self._labeling.take_labels(returned)
        if self._comparison is not None:
            self._comparison.take_labels(returned)

    def take_word(self, word: Word, now: float) -> Turn:
        """A person's or a trainer's word; `now` is event time."""
        turn = self._retraining.take_word(word, now)
        if word.step is Step.FINISHED:
            # the word of who only saw the run end does not displace the trainer's own
            self._words = {**({} if word.version else self._words), word.version: word}
        return Turn(turn.requests, [], turn.symptoms, turn.deployed, turn.answered)

    def arriving(self, versions: Mapping[str, int]) -> str:
        """The announced version that comes into service with a window of these rows; empty where there is none."""
        return self._retraining.arriving(versions)

    def take(
        self,
        end: float,
        seconds: float,
        versions: Mapping[str, int],
        profiles: Mapping[str, Profile],
        reference: Reference,
        alerts: lifecycle.State,
        performance: Callable[[], Performance],
    ) -> Turn:
        """A judged window of `seconds` up to `end`, in order."""
        whole = profiles[""]
        asked = self._retraining.take(Seen(end, whole.rows, versions, whole, alerts, performance), reference)
        turn = Turn(asked.requests, [], asked.symptoms, asked.deployed, asked.answered)
        turn.symptoms += self._labeling.take(end, alerts, self._retraining.state.new)
        if turn.deployed is not None:
            self._follow(turn.deployed, performance())
        if self._comparison is not None:
            draw = self._comparison.take(end, seconds, profiles)
            turn.draws += [] if draw is None else [draw]
            turn.symptoms += self._comparison.look(end)
            self._retraining.state.flips = self._comparison.flips
        return turn

    def _follow(self, version: str, performance: Performance) -> None:
        """A new version is a round of the campaign."""
        word = self._words.get(version)
        kappa = math.nan if self._comparison is None else self._comparison.kappa
        now = None if performance.drop is None else performance.drop.now
        score, seconds = (None, None) if word is None else (word.score, word.seconds)
        self._labeling.take_version(kappa, score, now, seconds)

    @property
    def view(self) -> RenewalView:
        """For showing."""
        state, going = self._retraining.state, self._labeling.campaign
        ended = self._labeling.state.ended
        return RenewalView(
            version=state.version,
            policy=state.case,
            campaign=None if going is None else going.labels,
            ended="" if ended is None else ended.text,
            requests=tuple(_shown(request) for request in reversed(state.requests[-LISTED:])),
            comparison=self.comparison,
        )


def _shown(request: Request) -> RequestView:
    before, after = (side.get("accuracy") for side in (request.before, request.after))
    last = request.moves[-1]
    return RequestView(
        request.id, request.status.value, request.cause.value, request.text, request.made, request.version,
        request.new_version, math.nan if before is None else before.value, math.nan if after is None else after.value,
        request.run, " ".join(filter(None, (last.by and f"{last.by}:", last.why))) if last.why else "",
    )  # fmt: skip
