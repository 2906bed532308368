"""The model: three small members of different kinds that vote on what a picture shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from detectors.core import Floats, Ints


class Answers(NamedTuple):
    """What the committee says of n pictures."""

    labels: Ints  # (n,) the class chosen
    scores: Floats  # (n, classes) mean of the members'
    members: Floats  # (n, 3, classes)
    embedding: Floats  # (n, 24) the network's hidden layer, scaled pixels in, activations out


class Committee:
    """A small network on the pixels, a logistic regression on the named features, a forest on both.

    Their mistakes differ where the picture is unlike the training ones, which is what disagreement measures.
    """

    def __init__(self, pixels: Floats, features: Floats, labels: Ints, seed: int) -> None:
        self._means = features.mean(axis=0)
        self._classes = np.unique(labels)
        network = MLPClassifier((24,), activation="tanh", alpha=0.1, max_iter=150, random_state=seed)
        forest = RandomForestClassifier(20, min_samples_leaf=2, random_state=seed)
        self._network: Pipeline = make_pipeline(StandardScaler(), network).fit(pixels, labels)
        self._linear: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=300))
        self._linear.fit(features, labels)
        self._forest: Any = forest.fit(np.hstack([pixels, features]), labels)

    def answer(self, pixels: Floats, features: Floats) -> Answers:
        """Answers for pictures (n, 64) with features (n, k); a feature that is NaN is taken as its training mean."""
        whole = np.where(np.isnan(features), self._means, features)
        members = np.stack(
            [
                self._network.predict_proba(pixels),
                self._linear.predict_proba(whole),
                self._forest.predict_proba(np.hstack([pixels, whole])),
            ],
            axis=1,
        )
        scores = members.mean(axis=1)
        scaled = self._network[0].transform(pixels)
        layer = self._network[1]
        return Answers(
            self._classes[scores.argmax(axis=1)],
            scores,
            members,
            np.tanh(scaled @ layer.coefs_[0] + layer.intercepts_[0]),
        )
