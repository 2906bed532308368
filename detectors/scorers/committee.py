"""How far the members of a committee disagree on a row.

The members are models asked the same question: an ensemble, a shadow, an older version. Where they part, the event lies
where their training said nothing; blind to what all of them get wrong alike.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Kind, number
from detectors.scorers.uncertainty import chances, entropies, has_logits


class Committee(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="committee"):
    """Disagreement from column `members`: the members' scores end to end, each as many as `scores` has.

    Derives `vote_entropy`, the entropy of the members' first choices from 0 to 1 (Dagan and Engelson 1995);
    `disagreement`, the mean Kullback-Leibler divergence of the members to their mean, in nats (McCallum and Nigam
    1998), which is the entropy of their mean less the mean of their entropies: where the members are passes of one
    model with its dropout left on, or draws from a posterior, that is BALD, the mutual information of answer and model
    (Houlsby, Huszar, Ghahramani, Lengyel 2011); `members_disagree`, a flag: not all have the same first choice;
    `consensus`, the largest chance of their mean, where the events have no `scores` whose confidence would say as much.
    Of equal scores the first class is the choice. A row is missing when any member is, or when the vector's length is
    not the reference's.
    """

    members: Annotated[
        int, msgspec.Meta(description="Number of members; 0 = as many as `scores` fits into `members`.", ge=0)
    ] = 0

    def fit(self, rows: Batch) -> Any:
        held = rows.get("members")
        if held is None or held.kind is not Kind.VECTOR or held.missing().all():
            return None
        width, members = held.values.shape[1], self.members
        scores = rows.get("scores")
        if not members and scores is not None and scores.kind is Kind.VECTOR and scores.values.shape[1]:
            members = width // scores.values.shape[1]
        if members < 2 or width % members:
            return None  # one voice cannot disagree
        alone = scores is None or scores.kind is not Kind.VECTOR or scores.missing().all()
        return {"width": width, "members": members, "logits": has_logits(held.values), "consensus": bool(alone)}

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        held = rows.get("members")
        if held is None or held.kind is not Kind.VECTOR or fitted is None:
            return {}
        n, width = held.values.shape
        if not n or width != fitted["width"]:
            each = np.full((n, 2, 2), np.nan)
        else:
            m = fitted["members"]
            each = chances(held.values.reshape(n * m, -1), fitted["logits"]).reshape(n, m, -1)
        entropy, split = _votes(each)
        found = {"vote_entropy": entropy, "disagreement": _divergence(each), "members_disagree": split}
        if fitted["consensus"]:
            found["consensus"] = _mean(each).max(axis=1)
        missing = np.isnan(each[:, :, 0]).any(axis=1)
        return {
            name: number(np.where(missing, np.nan, values), kind=Kind.FLAG if values is split else Kind.NUMBER)
            for name, values in found.items()
        }


def _votes(each: Floats) -> tuple[Floats, Floats]:
    """Entropy of the first choices (n,) of members' chances (n, members, classes), and whether they differ (n,)."""
    n, m, classes = each.shape
    choices = each.argmax(axis=2)
    places = choices + np.arange(n)[:, None] * classes
    votes = np.bincount(places.ravel(), minlength=n * classes).reshape(n, classes)
    most = np.log(min(m, classes))  # m voices cannot be spread over more than m classes
    return np.minimum(entropies(votes / m) / most, 1.0), (choices != choices[:, :1]).any(axis=1).astype(np.float64)


def _divergence(each: Floats) -> Floats:
    """Mean over members of KL(member || mean of members) (n,): entropy of the mean less mean of the entropies."""
    n, m, classes = each.shape
    own = np.einsum("im->i", entropies(each.reshape(n * m, classes)).reshape(n, m)) / m
    return np.asarray(np.maximum(entropies(_mean(each)) - own, 0.0))


def _mean(each: Floats) -> Floats:
    return np.asarray(np.einsum("imc->ic", each) / each.shape[1])
