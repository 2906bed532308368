"""What becomes of a task between labelers, reviewers, tools and time, on every queue."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from alerting.labeling.mongo import MongoStore
from alerting.labeling.moves import ATTEMPTS, LABELS
from alerting.labeling.queue import SLOW, LabelQueue, QueueError
from alerting.labeling.rules import Purse, QueueRules
from alerting.labeling.sqlite import SqliteStore
from alerting.labeling.task import (
    ClassScore,
    Known,
    LabelBatch,
    LabelingStatus,
    LabelTask,
    Named,
    Opinion,
    Outcome,
    Prediction,
    ReviewingStatus,
    Sla,
    Withdrawal,
)
from tests.alerting.labels import BATCH, MODEL, NOW, PLAIN, asked_for, claim, counts, drawn, found, label, task

Open = Callable[..., LabelQueue]
LIMITED = replace(PLAIN, purse=Purse(per_day=1_000))
TWICE = replace(PLAIN, overlap=1.0)  # two people label each task
HOUR = 3600.0


# -- several labels


def test_a_task_that_needs_two_labels_goes_to_two_people(opened: Open) -> None:
    queue = opened(TWICE)
    queue.put([task(1)], BATCH, NOW)
    first = label(queue, "ann", "can")
    assert (first.labeling_status, first.final) == ("In queue", None)
    assert queue.claim("ann", NOW, 60) is None
    second = label(queue, "bob", "can", NOW + 5)
    assert second.final is not None
    assert (second.labeling_status, second.final.value, second.final.by) == ("Done", "can", "vote")
    assert second.agreement is not None
    assert (second.agreement.n, second.agreement.raw) == (2, 1.0)
    assert [m.to for m in second.history] == ["Leased", "In queue", "Leased", "Agreed", "Done"]


def test_doubt_asks_a_third_and_the_majority_is_final(opened: Open) -> None:
    queue = opened(TWICE)
    queue.put([task(1)], BATCH, NOW)
    label(queue, "ann", "can")
    assert label(queue, "bob", "jar").labeling_status == "In queue"
    third = label(queue, "cid", "jar")
    assert third.final is not None
    assert (third.labeling_status, third.final.value) == ("Done", "jar")
    assert third.agreement is not None
    assert third.agreement.raw == pytest.approx(1 / 3)


def disagreed(queue: LabelQueue) -> str:
    queue.put([task(1)], BATCH, NOW)
    _, _, done = [label(queue, *said) for said in (("ann", "can"), ("bob", "jar"), ("cid", "box"))]
    assert (done.labeling_status, done.reviewing_status, done.final) == ("Disagreed", "To review", None)
    return done.id


def review(queue: LabelQueue, reviewer: str, now: float = NOW) -> tuple[str, str]:
    there = queue.review_next(reviewer, now, 60)
    assert there is not None
    assert there.lease is not None
    assert there.reviewing_status == "In review"
    return there.id, there.lease.token


def test_those_who_disagree_are_settled_by_a_reviewer_who_is_none_of_them(opened: Open) -> None:
    queue = opened(TWICE)
    name = disagreed(queue)
    assert queue.review_next("bob", NOW, 60) is None
    assert review(queue, "eve")[0] == name
    assert queue.review_next("fay", NOW + 59, 60) is None
    name, token = review(queue, "fay", NOW + 60)  # the first did not come back
    for _ in range(2):
        assert queue.review(name, token, Opinion.CORRECT, "fay", NOW + 61, "tin", "look") is Outcome.ACCEPTED
    done = found(queue, name)
    assert done.final is not None
    assert (done.labeling_status, done.reviewing_status, done.reviewer) == ("Done", "Corrected", "fay")
    assert (done.final.value, done.final.by, done.final.at) == ("tin", "adjudication", NOW + 61)
    assert [final.label for final in queue.finals(9)] == ["tin"]


def test_a_reviewer_sends_back_and_what_was_said_counts_no_more(opened: Open) -> None:
    queue = opened(TWICE)
    name = disagreed(queue)
    name, token = review(queue, "eve")
    assert queue.review(name, token, Opinion.SEND_BACK, "eve", NOW, comment="wrong guide") is Outcome.ACCEPTED
    back = found(queue, name)
    assert (back.labeling_status, back.reviewing_status, back.history[-1].why) == (
        "In queue",
        "Sent back",
        "wrong guide",
    )
    assert all(answer.late for answer in back.labels)
    done = label(queue, "dan", "tin")
    assert done.final is not None
    assert done.final.value == "tin"
    assert done.agreement is None


def test_a_correction_without_a_label_is_refused(opened: Open) -> None:
    queue = opened(TWICE)
    disagreed(queue)
    name, token = review(queue, "eve")
    with pytest.raises(ValueError, match="right label"):
        queue.review(name, token, Opinion.CORRECT, "eve", NOW)


def test_a_random_review_changes_what_was_told_already(opened: Open) -> None:
    queue = opened(replace(PLAIN, review=1.0))
    queue.put([task(1)], BATCH, NOW)
    done = label(queue, "ann", "can")
    assert (done.labeling_status, done.reviewing_status) == ("Done", "To review")
    told = queue.finals(9)
    assert [final.label for final in told] == ["can"]
    queue.acknowledge(told)
    name, token = review(queue, "eve")
    queue.review(name, token, Opinion.CORRECT, "eve", NOW + 5, "jar")
    again = queue.finals(9)
    assert [final.label for final in again] == ["jar"]
    assert again[0].rev > told[0].rev
    queue.acknowledge(told)  # comes late: it is about what was before
    assert queue.finals(9) == again


def test_reviews_are_random_as_often_as_configured(opened: Open) -> None:
    queue = opened(replace(PLAIN, review=0.3, overlap=0.2))
    queue.put([task(i) for i in range(300)], BATCH, NOW)
    needing_two = sum(found(queue, task(i).id).need == 2 for i in range(300))
    assert 30 <= needing_two <= 95  # 60, five standard deviations
    for _ in range(60):
        label(queue, "ann", "can")
    assert 3 <= queue.progress("demo", NOW).reviews["To review"] <= 32


def test_what_the_world_may_see_waits_for_a_reviewer(queue: LabelQueue) -> None:
    queue.put([task(1, severity="publicity")], BATCH, NOW)
    waiting = label(queue, "ann", "can")
    assert (waiting.labeling_status, waiting.reviewing_status, waiting.final) == ("Labeled", "To review", None)
    assert queue.finals(9) == []
    name, token = review(queue, "eve")
    queue.review(name, token, Opinion.ACCEPT, "eve", NOW)
    done = found(queue, name)
    assert done.final is not None
    assert (done.labeling_status, done.reviewing_status, done.final.value) == ("Done", "Approved", "can")


def test_measurements_come_to_their_median(opened: Open) -> None:
    queue = opened(TWICE)
    queue.put([task(1)], BATCH, NOW)
    label(queue, "ann", 1.5)
    done = label(queue, "bob", 2.0)
    assert done.final is not None
    assert (done.labeling_status, done.final.value) == ("Done", 1.75)


# -- the way back


def test_finals_come_until_they_are_acknowledged(queue: LabelQueue, opened: Open) -> None:
    queue.put([task(i, inputs=(Named("weight", i),)) for i in range(5)], BATCH, NOW)
    for i in range(5):
        label(queue, "ann", "can", NOW + i)
    first = queue.finals(3)
    assert [final.rank for final in first] == [0, 1, 2]
    assert first == opened().finals(3)
    assert (first[0].label, first[0].answer, first[0].confidence, first[0].pi) == ("can", "box", 0.6, 0.125)
    assert first[2].inputs == (Named("weight", 2),)
    queue.acknowledge(first)
    queue.acknowledge(first)
    assert [final.rank for final in queue.finals(9)] == [3, 4]


def test_a_label_says_which_label_sets_it_is_in(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    name = label(queue, "ann", "can").id
    for _ in range(2):
        queue.used([name], "set 1")
        queue.used([name], "set 2", evaluation=True)
    assert (found(queue, name).used.train, found(queue, name).used.eval) == (("set 1",), ("set 2",))


def test_tasks_of_a_withdrawn_span_are_cancelled_and_those_with_labels_are_not(opened: Open) -> None:
    queue = opened(TWICE)
    at = [replace(task(i).event, time=NOW + i) for i in range(6)]
    queue.put([task(i, event=at[i]) for i in range(6)], BATCH, NOW)
    label(queue, "ann", "can")
    held, token = claim(queue, "bob")  # rank 0 again, its second label
    one, old = claim(queue, "bob")
    span = Withdrawal("w", "shelf", NOW, NOW + 3, "unintended")
    assert queue.withdraw(span, NOW + 9) == 3
    assert queue.withdraw(span, NOW + 9) == 0
    assert counts(queue) == {"Leased": 1, "Cancelled": 3, "In queue": 2}
    assert queue.submit(one, old, "can", "bob", NOW) is Outcome.LATE
    assert queue.submit(held, token, "can", "bob", NOW) is Outcome.ACCEPTED
    assert [queue.claim("cid", NOW, 60) is None for _ in range(3)] == [False, False, True]
    assert queue.put([task(1)], BATCH, NOW) == 0  # what was removed does not come back


# -- tools


def test_an_export_is_a_lease_to_the_tool(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(5)], BATCH, NOW)
    claim(queue, "ann")
    out = queue.export_pending("studio", "7", 3, NOW, 9 * HOUR)
    assert [t.select.rank for t in out] == [1, 2, 3]
    assert queue.export_pending("studio", "7", 2, NOW, HOUR) == out[:2]  # never reported: the tool may not have them
    queue.exported("studio", {out[0].id: "31", out[1].id: "32"}, NOW, "http://studio/7")
    again = queue.export_pending("studio", "7", 9, NOW, HOUR)
    assert [t.select.rank for t in again] == [3, 4]
    export = found(queue, out[0].id).export
    assert export is not None
    assert (export.task, export.uri, export.acked) == ("31", "http://studio/7", True)
    assert queue.claim("bob", NOW, 60) is None


def test_doubled_and_shuffled_annotations_come_to_one_label(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(20)], BATCH, NOW)
    queue.export_pending("studio", "7", 20, NOW, HOUR)
    calls = [(i, "2", "can") for i in range(20)] * 3 + [(i, "1", "jar") for i in range(20)] * 2
    random.Random(4).shuffle(calls)
    for i, updated, value in calls:
        queue.answer_from_tool(task(i).id, "studio", f"a{i}", updated, value, "ann", NOW)
    finals = queue.finals(99)
    assert sorted(final.rank for final in finals) == list(range(20))
    assert {final.label for final in finals} == {"can"}
    assert all(len(found(queue, final.task).labels) == 1 for final in finals)


def test_a_changed_annotation_is_told_again_and_a_deleted_one_is_asked_again(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    queue.answer_from_tool(task(1).id, "studio", "a", "2026-01-01T00:00:00Z", "can", "ann", NOW)
    queue.acknowledge(queue.finals(9))
    queue.answer_from_tool(task(1).id, "studio", "a", "2026-01-02T00:00:00Z", "jar", "ann", NOW + 5)
    assert [final.label for final in queue.finals(9)] == ["jar"]
    queue.retract_from_tool(task(1).id, "studio", "a", NOW + 6)
    assert queue.finals(9) == []
    assert found(queue, task(1).id).labeling_status == "In queue"
    assert label(queue, "bob", "tin").final is not None


def test_a_tool_is_late_when_the_task_passed_to_somebody_else(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    queue.export_pending("studio", "7", 1, NOW, 60)
    claim(queue, "bob", NOW + 60)
    assert queue.answer_from_tool(task(1).id, "studio", "a", "1", "can", "ann", NOW + 61) is Outcome.LATE
    assert found(queue, task(1).id).labels[0].late


def test_a_skip_in_a_tool_counts_once(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    for labeler in ("ann", "bob", "cid"):
        queue.export_pending("studio", "7", 1, NOW, HOUR)
        for _ in range(2):
            queue.skip_from_tool(task(1).id, "studio", labeler, NOW)
    assert counts(queue) == {"Unclear": 1}
    assert len(found(queue, task(1).id).skips) == 3


# -- canaries


def test_known_items_check_labelers_and_never_come_back_as_labels(opened: Open) -> None:
    queue = opened(replace(PLAIN, known_share=0.5))
    queue.put([task(i) for i in range(100)], BATCH, NOW)
    shown = Prediction("box", (ClassScore("box", 0.6), ClassScore("$can.of beans", 0.4)), 0.2)
    known = [Known(dataset="demo", event=f"old {i}", truth="can", model=MODEL, prediction=shown) for i in range(9)]
    assert queue.plant(known, NOW) == 9
    assert queue.plant(known, NOW) == 0
    met = 0
    for labeler, good in (("ann", 1.0), ("bob", 0.0)):
        for i in range(40):
            there = queue.claim(labeler, NOW + i, 60)
            assert there is not None
            assert there.lease is not None
            queue.submit(there.id, there.lease.token, "can" if good or not there.known else "jar", labeler, NOW + i)
            met += there.known
    assert met == 18
    progress = queue.progress("demo", NOW)
    assert [(p.name, p.labels, p.known, p.known_right) for p in progress.labelers] == [
        ("ann", 31, 9, 9),
        ("bob", 31, 9, 0),
    ]
    assert progress.counts == {"In queue": 38, "Done": 62}
    assert {final.event.split()[0] for final in queue.finals(999)} == {"event"}
    assert len(queue.labeled_since(0.0)) == 62


def test_known_items_alone_are_not_served(opened: Open) -> None:
    queue = opened(replace(PLAIN, known_share=0.5))
    queue.plant([Known(dataset="demo", event="old", truth="can", model=MODEL)], NOW)
    assert queue.claim("ann", NOW, 60) is None


def test_a_canary_that_has_met_enough_labelers_retires(opened: Open) -> None:
    queue = opened(replace(PLAIN, known_share=1.0))
    queue.put([task(i) for i in range(2 * LABELS)], BATCH, NOW)
    queue.plant([Known(dataset="demo", event="old", truth="can", model=MODEL)], NOW)
    met: list[LabelTask] = []
    for i in range(LABELS + 1):
        met += [answered for answered in (label(queue, f"labeler {i}", "can") for _ in range(2)) if answered.known]
    assert len(met) == LABELS
    assert {answered.labeling_status for answered in met[:-1]} == {"In queue"}
    assert (met[-1].labeling_status, met[-1].final) == ("Done", None)


# -- limits and time


def test_the_purse_is_a_hard_stop_in_labels_asked(opened: Open) -> None:
    queue = opened(replace(TWICE, purse=Purse(per_hour=4, per_day=6, price=0.5, money=3.5)))
    queue.put([task(i) for i in range(50)], BATCH, NOW)
    start = NOW - NOW % 86400
    for _ in range(4):
        label(queue, "ann", "can", start)
    assert queue.claim("bob", start, 60) is None
    label(queue, "bob", "can", start + HOUR)
    name, token = claim(queue, "ann", start + HOUR)
    assert queue.claim("bob", start + HOUR, 60) is None  # six in a day
    queue.skip(name, token, "ann", start + HOUR)
    label(queue, "bob", "can", start + HOUR)  # what led to no label is not counted
    assert queue.claim("bob", start + HOUR, 60) is None
    label(queue, "ann", "can", start + 86400)
    assert queue.claim("ann", start + 86400, 60) is None  # seven at 0.5 are 3.5


def test_a_low_queue_is_filled_from_the_reserve_and_every_probability_follows(opened: Open) -> None:
    queue = opened(LIMITED)
    keys = [0.01 * (i + 1) for i in range(40)]
    tasks = [
        drawn(i, keys[i], labeling_status=LabelingStatus.IN_QUEUE if i < 5 else LabelingStatus.IN_RESERVE)
        for i in range(40)
    ]
    queue.put(tasks, replace(BATCH, n=5, reserve=35, tau=keys[5], beyond=0.61), NOW)
    done = label(queue, "ann", "can")
    queue.acknowledge(queue.finals(9))
    assert queue.tend(NOW + 1).released == 20 - 4  # 20 for one labeler
    batch = queue.batch("batch 1")
    assert batch is not None
    assert (batch.n, batch.reserve, batch.tau) == (21, 19, keys[21])
    assert [t.select.pi for t in (found(queue, task(i).id) for i in range(22))] == [2 * keys[21]] * 21 + [None]
    told = queue.finals(9)
    assert [(final.task, final.pi) for final in told] == [(done.id, 2 * keys[21])]
    for waiting in (20, 19):
        for _ in range(waiting):
            label(queue, "ann", "can", NOW + 1)
        queue.tend(NOW + 1)
    batch = queue.batch("batch 1")
    assert batch is not None
    assert (batch.n, batch.reserve, batch.tau) == (40, 0, 0.61)
    assert {final.pi for final in queue.finals(99)} == {min(1.0, 2 * 0.61)}


def test_a_full_queue_asks_for_the_first_ranks_of_a_new_draw(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(50)], BATCH, NOW)
    label(queue, "ann", "can")
    queue.tend(NOW)  # one labeler: 20 should be ready, and no more than 60
    keys = [0.1 * (i + 1) for i in range(30)]
    later = LabelBatch(id="batch 2", model=MODEL, N=500, n=30, tau=3.1)
    queue.put([drawn(100 + i, keys[i], "batch 2") for i in range(30)], later, NOW)
    assert counts(queue) == {"In queue": 60, "Done": 1, "In reserve": 19}
    batch = queue.batch("batch 2")
    assert batch is not None
    assert (batch.n, batch.reserve, batch.tau, batch.beyond) == (11, 19, keys[11], 3.1)
    assert found(queue, task(100).id).select.pi == 1.0


def test_without_a_purse_nobody_is_asked_for_more_than_was_drawn(queue: LabelQueue) -> None:
    waiting = drawn(4, 0.5, labeling_status=LabelingStatus.IN_RESERVE)
    queue.put([*(task(i) for i in range(4)), waiting], replace(BATCH, n=4, reserve=1, tau=0.5, beyond=0.6), NOW)
    for _ in range(4):
        label(queue, "ann", "can")
    assert queue.claim("bob", NOW, 60) is None
    done = queue.tend(NOW)
    assert (done.released, done.rechecks) == (0, 0)
    assert queue.claim("bob", NOW, 60) is None


def test_with_nothing_else_left_the_labeled_are_looked_at_again_by_others(opened: Open) -> None:
    queue = opened(LIMITED)
    queue.put([task(i) for i in range(4)], BATCH, NOW)
    for _ in range(4):
        label(queue, "ann", "can")
    assert queue.claim("bob", NOW, 60) is None
    assert queue.tend(NOW).rechecks == 4
    queue.acknowledge(queue.finals(9))
    assert queue.claim("ann", NOW, 60) is None
    again = label(queue, "bob", "can", NOW + 1)
    assert again.final is not None
    assert (again.labeling_status, again.final.value, len(again.labels)) == ("Done", "can", 2)
    assert [final.task for final in queue.finals(9)] == [again.id]


def test_a_label_that_nobody_wants_to_look_at_again_stands(opened: Open) -> None:
    queue = opened(LIMITED)
    queue.put([task(1), task(2)], BATCH, NOW)
    for _ in range(2):
        label(queue, "ann", "can")
    assert queue.claim("bob", NOW, 60) is None
    assert queue.tend(NOW).rechecks == 2
    for i in range(ATTEMPTS):
        claim(queue, "bob", NOW + 100 * i)
        claim(queue, "bob", NOW + 100 * i)
    queue.acknowledge(queue.finals(9))
    later = NOW + 100 * ATTEMPTS
    assert queue.tend(later).over == 2
    for name in (task(1).id, task(2).id):
        there = found(queue, name)
        assert there.final is not None
        assert (there.labeling_status, there.final.value, there.labeler, there.need) == ("Done", "can", "ann", 1)
    assert {final.label for final in queue.finals(9)} == {"can"}


def test_what_nobody_labels_in_time_expires_and_what_somebody_did_is_done(opened: Open) -> None:
    queue = opened(replace(TWICE, open_for=HOUR, keep=2 * HOUR))
    queue.put([task(i) for i in range(3)], BATCH, NOW)
    label(queue, "ann", "can")
    done = queue.tend(NOW + HOUR)
    assert (done.expired, done.closed) == (3, 1)
    assert counts(queue) == {"Done": 1, "Expired": 2}
    assert [final.label for final in queue.finals(9)] == ["can"]
    batch = queue.batch("batch 1")
    assert batch is not None
    assert batch.closed
    assert queue.tend(NOW + HOUR + SLOW).removed == 0
    assert queue.tend(NOW + 3 * HOUR).removed == 3
    assert queue.get(task(1).id) is None
    assert queue.finals(9) == []


def test_a_disagreement_that_no_reviewer_looks_at_is_unclear_in_the_end(opened: Open) -> None:
    queue = opened(replace(TWICE, open_for=HOUR))
    name = disagreed(queue)
    queue.tend(NOW + HOUR)
    assert (found(queue, name).labeling_status, found(queue, name).reviewing_status) == (
        "Unclear",
        ReviewingStatus.NONE,
    )
    assert queue.review_next("eve", NOW + HOUR, 60) is None


def test_past_its_sla_a_task_comes_first(queue: LabelQueue) -> None:
    queue.put([asked_for(1, 50.0), asked_for(2, 0.0, sla=Sla(NOW + 60))], BATCH, NOW)
    assert queue.tend(NOW + SLOW).breached == 1
    assert queue.tend(NOW + 2 * SLOW).breached == 0
    assert claim(queue, "ann", NOW + 2 * SLOW)[0] == task(2).id


def test_a_task_whose_claimer_died_before_it_was_leased_is_soon_somebody_elses(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise QueueError("killed")

    queue = opened(PLAIN)
    queue.put([task(1)], BATCH, NOW)
    with monkeypatch.context() as broken:
        for store in (MongoStore, SqliteStore):
            broken.setattr(store, "swap", dies)
        with pytest.raises(QueueError):
            queue.claim("ann", NOW, 24 * HOUR)
    assert claim(queue, "bob", NOW + 30)[0] == task(1).id


def test_a_lease_may_be_extended_while_it_is_held(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    name, token = claim(queue, "ann")
    assert queue.extend(name, token, NOW + 120)
    assert queue.claim("bob", NOW + 119, 60) is None
    assert claim(queue, "bob", NOW + 120)[0] == name
    assert not queue.extend(name, token, NOW + 500)


def test_a_lease_still_runs_out_where_another_answer_came_late_or_the_sla_passed(queue: LabelQueue) -> None:
    queue.put([task(1), asked_for(2, sla=Sla(NOW + 90))], BATCH, NOW)
    leased = dict(claim(queue, "ann") for _ in range(2))
    assert {claim(queue, "bob", NOW + 61)[0] for _ in range(2)} == set(leased)
    assert queue.submit(task(1).id, leased[task(1).id], "can", "ann", NOW + 62) is Outcome.LATE
    assert queue.tend(NOW + 100).breached == 1
    assert queue.tend(NOW + 121).over == 2
    assert {claim(queue, "cid", NOW + 122)[0] for _ in range(2)} == set(leased)


def test_datasets_have_lines_of_their_own(queue: LabelQueue) -> None:
    queue.put([task(1), task(2, dataset="other")], BATCH, NOW)
    assert queue.datasets() == ["demo", "other"]
    there = queue.claim("ann", NOW, 60, "other")
    assert there is not None
    assert there.id == task(2).id
    assert queue.claim("ann", NOW, 60, "other") is None
    assert queue.claim("ann", NOW, 60, "nobody's") is None
    assert claim(queue, "ann")[0] == task(1).id


def test_labelers_who_are_often_wrong_are_asked_to_be_checked(opened: Open) -> None:
    queue = opened(replace(PLAIN, known_share=1.0))
    queue.put([task(i) for i in range(60)], BATCH, NOW)
    queue.plant([Known(dataset="demo", event=f"old {i}", truth="can", model=MODEL) for i in range(40)], NOW)
    for i in range(60):
        there = queue.claim("ann", NOW + i, 60)
        assert there is not None
        assert there.lease is not None
        value = "jar" if there.known and there.truth == "can" and i % 2 else "can"
        queue.submit(there.id, there.lease.token, value, "ann", NOW + i)
    (ann,) = queue.progress("demo", NOW).labelers
    assert ann.accuracy is not None
    assert ann.accuracy < 0.9
    queue.tend(NOW + SLOW)
    there = queue.claim("ann", NOW + SLOW, 60)
    assert there is not None
    assert there.lease is not None
    queue.submit(there.id, there.lease.token, "can", "ann", NOW + SLOW)
    assert found(queue, there.id).labeling_status == "In queue"  # somebody else is asked as well


def test_a_labeler_who_takes_one_class_for_another_is_checked_where_she_says_the_latter(opened: Open) -> None:
    queue = opened(replace(PLAIN, sure=0.8))
    truth = {task(i).id: ("can", "jar")[i % 2] for i in range(70)}
    queue.put([task(i, need=3) for i in range(70)], BATCH, NOW)
    cans = 0
    for by in ("ann", "bob", "cid"):
        for _ in truth:
            name, token = claim(queue, by)
            cans += by == "cid" and truth[name] == "can"
            mistaken = by == "cid" and truth[name] == "can" and cans % 2
            queue.submit(name, token, "jar" if mistaken else truth[name], by, NOW)
    queue.tend(NOW + SLOW)
    queue.put([task(i) for i in (100, 101)], replace(BATCH, id="another"), NOW + SLOW)
    for answer, status in (("can", "Done"), ("jar", "In queue")):
        name, token = claim(queue, "cid", NOW + SLOW)
        queue.submit(name, token, answer, "cid", NOW + SLOW)
        assert found(queue, name).labeling_status == status


def test_rules_are_the_queues_own() -> None:
    assert QueueRules().purse.caps == (None, None, None)
    assert Purse(per_month=9, price=2.0, money=11.0).caps == (None, None, 5)
