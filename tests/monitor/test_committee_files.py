"""What is read of a member's file, and what never is. In this process: nothing here may harm the child or us."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from monitor.committee.dropout import Dropout, kept
from monitor.committee.exported import Program
from monitor.committee.fetch import Unusable
from monitor.committee.options import Architecture, Conv, Mlp, Own
from monitor.committee.score import Committee
from monitor.committee.wire import Member, ScoreJob
from tests.monitor.committees import CLASSES, INPUTS, NAMES, digest, exported, file, member, network

SIZES: dict[str, Architecture | None] = {
    name: msgspec.convert(member(name).get("architecture"), Architecture | None) for name in NAMES
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Committee]:
    """A committee from files' bytes."""

    def load(*files: tuple[str, bytes], passes: int = 1, **architectures: Architecture) -> Committee:
        members = []
        for name, data in files:
            (tmp_path / digest(data)).write_bytes(data)
            members.append(Member(name, digest(data), architectures.get("of", SIZES.get(name)), True))
        return Committee(ScoreJob(tuple(members), str(tmp_path), passes, "cpu", 1 << 31, 1))

    return load


def rows(n: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << 63, n).astype(np.uint64), rng.normal(size=(n, INPUTS))


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def test_every_format_answers_as_the_module_it_was_made_from(torch: Any, load: Callable[..., Committee]) -> None:
    keys, inputs = rows(300)
    answers = load(*[(name, file(torch, name)) for name in NAMES]).answer(keys, inputs)
    assert answers.shape == (300, len(NAMES) * CLASSES)
    with torch.inference_mode():
        for i, name in enumerate(NAMES):
            said = torch.softmax(network(torch, name)(torch.tensor(inputs, dtype=torch.float32)), 1).numpy()
            assert answers[:, i * CLASSES : (i + 1) * CLASSES] == pytest.approx(said, abs=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_an_exported_program_of_convolutions_and_attention_answers_alike(torch: Any, fixed: bool) -> None:
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 4, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout2d(0.3),
        nn.MaxPool2d(2), nn.Flatten(2), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(),
        nn.Linear(32, CLASSES),
    ).eval()  # fmt: skip
    data = exported(torch, module, fixed=fixed, inputs=32)
    program = Program(zipfile.ZipFile(io.BytesIO(data)), "cpu", Dropout())
    assert (program.rows, program.inputs) == (2 if fixed else None, 32)
    given = torch.randn(2, 32)
    with torch.inference_mode():
        assert torch.allclose(program(given), module(given), atol=1e-6)


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it(torch: Any, load: Callable[..., Committee]) -> None:
    committee = load(*[(name, file(torch, name)) for name in NAMES], passes=4)
    keys, inputs = rows(700)
    whole = committee.answer(keys, inputs)
    order = np.random.default_rng(1).permutation(700)
    assert (committee.answer(keys[order], inputs[order]) == whole[order]).all()
    assert (committee.answer(keys[5:6], inputs[5:6]) == whole[5:6]).all()


def test_dropout_left_on_makes_one_model_many_voices(torch: Any, load: Callable[..., Committee]) -> None:
    keys, inputs = rows(50)
    for name in NAMES:
        committee = load((name, file(torch, name)), passes=30)
        found = committee.answer(keys, inputs).reshape(50, 30, CLASSES)
        assert np.mean([len(np.unique(row, axis=0)) for row in found]) > 3  # of few units few fall
        assert not (committee.answer(keys + np.uint64(1), inputs).reshape(50, 30, CLASSES) == found).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_units_fall_as_the_layer_says(p: float) -> None:
    stayed = kept(np.arange(2000, dtype=np.uint64), 3, 100, p)
    assert stayed.mean() == pytest.approx(1 - p, abs=0.005)
    assert stayed.mean(axis=0) == pytest.approx(np.full(100, 1 - p), abs=0.06)
    assert abs(np.corrcoef(stayed.T.astype(float))[np.triu_indices(100, 1)]).max() < 0.12


def test_a_small_network_for_pictures_answers(torch: Any, load: Callable[..., Committee]) -> None:
    shape = Conv(shape=(1, 8, 8), channels=(4, 8), classes=CLASSES, dropout=0.1)
    held = io.BytesIO()
    torch.save(shape.network().state_dict(), held)
    committee = load(("pictures.pt", held.getvalue()), of=shape)
    assert (committee.inputs, committee.classes) == (64, CLASSES)


def test_a_network_of_the_users_own_answers(torch: Any, load: Callable[..., Committee]) -> None:
    own = Own(name="torch.nn:Linear", inputs=INPUTS, options={"in_features": INPUTS, "out_features": CLASSES})
    held = io.BytesIO()
    torch.save(own.network().state_dict(), held)
    assert load(("own.pt", held.getvalue()), of=own).classes == CLASSES


class Trap:
    """What a hostile pickle does."""

    sprung = False

    def __reduce__(self) -> Any:
        return (setattr, (Trap, "sprung", True))


def a_pickle(_torch: Any) -> tuple[str, bytes]:
    return "c.pt", pickle.dumps(Trap())


def a_whole_module(torch: Any) -> tuple[str, bytes]:
    held = io.BytesIO()
    torch.save(network(torch, "c.pt"), held)
    return "c.pt", held.getvalue()


def a_hostile_state_dict(torch: Any) -> tuple[str, bytes]:
    held = io.BytesIO()
    torch.save({"weight": Trap()}, held)
    return "c.pt", held.getvalue()


def a_script(_torch: Any) -> tuple[str, bytes]:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("c/code/__torch__.py", "def forward(self): pass")
        archive.writestr("c/data.pkl", pickle.dumps({}))
    return "c.pt", held.getvalue()


def a_pickled_weight(torch: Any) -> tuple[str, bytes]:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else data

    return "a.pt2", rewritten(file(torch, "a.pt2"), change)


@pytest.mark.parametrize("made", [a_pickle, a_whole_module, a_hostile_state_dict, a_script, a_pickled_weight])
def test_what_would_have_to_be_unpickled_is_refused(
    torch: Any, load: Callable[..., Committee], made: Callable[[Any], tuple[str, bytes]]
) -> None:
    with pytest.raises(Unusable) as refused:
        load(made(torch))
    assert refused.value.cause == "pickle"
    assert not Trap.sprung


def test_pickles_inside_an_exported_program_are_never_read(torch: Any, load: Callable[..., Committee]) -> None:
    data = rewritten(file(torch, "a.pt2"), lambda n, d: pickle.dumps(Trap()) if "sample_inputs" in n else d)
    assert load(("a.pt2", data)).classes == CLASSES
    assert not Trap.sprung


def edited(torch: Any, change: Callable[[Any], None]) -> tuple[str, bytes]:
    def rewrite(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        held = json.loads(data)
        change(held["graph_module"])
        return json.dumps(held).encode()

    return "a.pt2", rewritten(file(torch, "a.pt2"), rewrite)


@pytest.mark.parametrize(
    "target",
    ["torch.serialization.os.system", "torch.ops.aten.from_file.default", "torch.ops.higher_order.cond", "torch.load",
     "torch.ops.aten.linear", "_operator.attrgetter", "#ext", "torch.ops.aten.no_such.default"],
)  # fmt: skip
def test_a_program_calls_nothing_but_tensor_operators(torch: Any, load: Callable[..., Committee], target: str) -> None:
    with pytest.raises(Unusable, match="is not known"):
        load(edited(torch, lambda module: module["graph"]["nodes"][0].update(target=target)))


def test_expressions_for_sizes_are_never_evaluated(torch: Any, load: Callable[..., Committee], tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def change(module: Any) -> None:
        for value in module["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    load(edited(torch, change))
    assert not mark.exists()


def test_an_archive_that_swells_is_refused(torch: Any, load: Callable[..., Committee]) -> None:
    data = rewritten(file(torch, "a.pt2"), lambda *_: bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(Unusable, match="unpacks to more"):
        load(("a.pt2", data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(torch: Any, load: Callable[..., Committee], name: str, share: float) -> None:
    data = file(torch, name)
    with pytest.raises(Unusable) as refused:
        load((name, data[: int(share * len(data))]))
    assert refused.value.cause == "unreadable"


def test_members_that_do_not_fit_are_refused_with_the_reason(torch: Any, load: Callable[..., Committee]) -> None:
    good = ("b.safetensors", file(torch, "b.safetensors"))
    with pytest.raises(Unusable, match="size mismatch"):
        load(good, of=Mlp(sizes=(INPUTS, 5, CLASSES), dropout=0.2))
    with pytest.raises(Unusable, match="no dropout layer"):
        load(("a.pt2", exported(torch, torch.nn.Linear(INPUTS, CLASSES))), passes=3)
    with pytest.raises(Unusable, match=r"4 numbers in, 2 out; the first member 4, 3"):
        load(good, ("a.pt2", exported(torch, torch.nn.Linear(INPUTS, 2))))
    with pytest.raises(Unusable, match="depends on the rows beside it"):
        load(("a.pt2", exported(torch, torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).train())))
