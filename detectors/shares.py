"""How often each class is the truth by now, told without labels where nothing but these shares moved (label shift).

Two opinions. BBSE solves what the reference knows of answers by truth for the shares that give the answers of now
(Lipton, Wang, Smola 2018), with a ridge towards no change (RLLS, Azizzadenesheli et al. 2019). EM weighs the calibrated
chances of each cell of answers anew until they agree with what they add up to (Saerens, Latinne, Decaestecker 2002).
Both are wrong, and look as sure, where something else moved; so they say when the scores within an answer speak for it.
"""

from __future__ import annotations

import numpy as np

from detectors.core import Floats, Ints
from detectors.performance import Estimate, Table

STEEPEST = 20.0  # condition number beyond which answers hardly tell the classes apart
ROUNDS = 200  # of EM; shares move by under 1e-6 then, unless classes cannot be told apart
UNLIKELY = 4.0  # standard deviations that the mix of scores may be off what the shares explain
Z = 1.959964  # of a 95 % interval


def shares(table: Table, rows: Ints, doubt: str = "") -> list[Estimate]:
    """`share_bbse` and `share_em` of each class in a window with `rows` (cells,) in the cells; [] without classes.

    The interval of BBSE is what chance makes of the answers, now and in the reference; EM comes without one. Both are
    named doubtful where the condition number of answers by truth is over 20, or where cells within an answer are held
    by other shares of the rows than any mix of the reference's classes would give; or with the caller's `doubt`.

    >>> truths = np.array([[95, 5], [60, 40], [30, 70], [5, 95]])
    >>> table = Table(("no", "yes"), np.array([0, 2, 4]), np.zeros(6), truths, np.arange(4) / 4)
    >>> now = (truths * [0.4, 1.6]).sum(axis=1).round().astype(int)
    >>> [(e.measure, e.of, round(e.reference, 2), round(e.value, 2), e.doubt) for e in shares(table, now)[1::2]]
    [('share_bbse', 'yes', 0.53, 0.8, ''), ('share_em', 'yes', 0.53, 0.82, '')]
    """
    n, m = int(rows.sum()), int(table.truths.sum())
    if not table.classes or not n:
        return []
    before = table.truths.sum(axis=0) / m
    if not (before > 0).all():
        return []  # a class that the reference never saw true has no share to start from
    answered = np.zeros((len(table.classes), len(rows)))
    answered[table.right, np.arange(len(rows))] = 1.0
    joint, answers = answered @ table.truths / m, answered @ rows / n
    solved = np.linalg.solve(joint.T @ joint + (1 / n + 1 / m) * np.eye(len(before)), joint.T)
    ratio = np.maximum(1.0 + solved @ (answers - joint.sum(axis=1)), 0.0)
    bbse = ratio * before / max(float(ratio @ before), 1e-12)
    spread = solved @ ((np.diag(answers) - np.outer(answers, answers)) * (1 / n + 1 / m)) @ solved.T
    half = Z * before * np.sqrt(np.maximum(np.diag(spread), 0.0))
    em = _agreed(table, rows / n, before)
    doubt = doubt or _doubt(table, rows, em, float(np.linalg.cond(joint / before)))
    told = list(enumerate(table.classes))
    low, high = np.maximum(bbse - half, 0.0), np.minimum(bbse + half, 1.0)
    return [
        *(
            Estimate("share_bbse", of, float(bbse[c]), float(low[c]), float(high[c]), float(before[c]), doubt)
            for c, of in told
        ),
        *(Estimate("share_em", of, float(em[c]), np.nan, np.nan, float(before[c]), doubt) for c, of in told),
    ]


def _agreed(table: Table, mix: Floats, before: Floats) -> Floats:
    """The shares (classes,) that the chances of the mix of cells (cells,), weighed by them, add up to."""
    seen = table.truths + 0.5 * before
    chances = seen / seen.sum(axis=1, keepdims=True)
    now = before
    for _ in range(ROUNDS):
        weighed = chances * (now / before)
        after = np.asarray(mix @ (weighed / weighed.sum(axis=1, keepdims=True)))
        moved, now = float(np.abs(after - now).max()), after
        if moved < 1e-6:
            break
    return now


def _doubt(table: Table, rows: Ints, now: Floats, steepness: float) -> str:
    """Why the shares are not to be believed, in words."""
    if steepness > STEEPEST:
        return f"answers hardly tell the classes apart (condition number {steepness:.0f})"
    n, m = int(rows.sum()), int(table.truths.sum())
    expected = n * (table.truths / table.truths.sum(axis=0)) @ now
    apart = (rows - expected) ** 2 / np.maximum(expected * (1 + n / m), 0.5)
    free = len(rows) - len(now)  # of cells, less the shares that were fitted
    if free > 0 and float(apart.sum()) > free + UNLIKELY * np.sqrt(2 * free):
        return "the scores given each answer moved too: it is not the classes' shares alone"
    return ""
