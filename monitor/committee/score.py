"""The committee inside its child process: files become members, rows become their chances."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detectors.core import Floats
from detectors.scorers.uncertainty import chances
from monitor.committee.dropout import Dropout, Keys
from monitor.committee.exported import Program
from monitor.committee.fetch import Unusable
from monitor.committee.options import Architecture
from monitor.committee.wire import BATCH, Member, ScoreJob


class _Voice(NamedTuple):
    forward: Callable[[Any], Any]
    dropout: Dropout
    inputs: int  # numbers in a row
    rows: int  # of one forward, always as many: kernels chosen by the number of rows differ in the last bits
    logits: bool


class Committee:
    """Members that are ready to be asked."""

    def __init__(self, job: ScoreJob) -> None:
        """Unusable, or whatever torch raises, when a member cannot be loaded or does not answer as it should."""
        import torch

        torch.set_num_threads(job.threads)
        self._passes, self._device = job.passes, job.device
        self._voices: list[_Voice] = []
        self.inputs = self.classes = 0
        for member in job.members:
            try:
                self._add(member, job)
            except Unusable as error:
                raise Unusable(error.cause, f"{member.path}: {error}") from error

    def answer(self, keys: Keys, inputs: Floats) -> Floats:
        """Chances (n, members x passes x classes) for rows (n, inputs) of events with these keys."""
        return np.concatenate([self._asked(voice, keys, inputs) for voice in self._voices], axis=1)

    def _add(self, member: Member, job: ScoreJob) -> None:
        data = Path(job.cache, member.sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise Unusable("wrong_digest", "its copy in the cache was changed")
        voice = _loaded(member, data, job.device)
        if job.passes > 1 and not voice.dropout.layers:
            raise Unusable("unfit", "has no dropout layer to leave on")
        sizes = voice.inputs, self._probed(voice)
        if self._voices and sizes != (self.inputs, self.classes):
            raise Unusable(
                "unfit", f"{sizes[0]} numbers in, {sizes[1]} out; the first member {self.inputs}, {self.classes}"
            )
        self.inputs, self.classes = sizes
        self._voices.append(voice)

    def _probed(self, voice: _Voice) -> int:
        """Asks rows that mean nothing. How many numbers it answers; Unusable when it answers wrongly, or when a row's
        answer depends on those beside it, as with batch norm in training mode."""
        rng = np.random.default_rng(0)
        rows, others = rng.normal(size=(2, voice.rows, voice.inputs))
        keys = np.arange(voice.rows, dtype=np.uint64)
        try:
            one = self._asked(voice, keys, rows)
            two = self._asked(voice, keys, np.concatenate([rows[:1], others[1:]]))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise Unusable("unfit", f"cannot answer a row of {voice.inputs} numbers: {error}") from error
        if not np.allclose(one[0], two[0], atol=1e-4, equal_nan=True):
            raise Unusable("unfit", "a row's answer depends on the rows beside it; export it in evaluation mode")
        return int(one.shape[1]) // self._passes

    def _asked(self, voice: _Voice, keys: Keys, inputs: Floats) -> Floats:
        import torch

        parts = []
        for start in range(0, len(inputs), voice.rows):
            some = inputs[start : start + voice.rows]
            short = voice.rows - len(some)
            rows = torch.from_numpy(np.pad(some, ((0, short), (0, 0))).astype(np.float32)).to(self._device)
            padded = np.pad(keys[start : start + voice.rows], (0, short))
            turns = []
            for turn in range(self._passes):
                voice.dropout.set(padded if self._passes > 1 else None, turn)
                torch.default_generator.manual_seed(0)  # for members that draw at random by themselves
                with torch.inference_mode():
                    turns.append(_matrix(voice.forward(rows), voice.rows)[: len(some)])
            parts.append(np.concatenate([chances(turn, voice.logits) for turn in turns], axis=1))
        return np.concatenate(parts)


def _matrix(output: Any, rows: int) -> Floats:
    found: Floats = output.detach().to("cpu").double().numpy()
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or len(found) != rows:
        raise ValueError(f"gives a tensor of shape {found.shape} for {rows} rows")
    return found


def _loaded(member: Member, data: bytes, device: str) -> _Voice:
    dropout = Dropout()
    if member.path.endswith(".pt2"):
        program = Program(_archive(data), device, dropout)
        return _Voice(program, dropout, program.inputs, program.rows or BATCH, member.logits)
    architecture = member.architecture
    if architecture is None:
        raise Unusable("unfit", "weights need an `architecture`")
    weights = _safetensors(data) if member.path.endswith(".safetensors") else _state_dict(data)
    module = _network(architecture, weights)
    dropout.hook(module)
    return _Voice(module.to(device), dropout, architecture.inputs, BATCH, member.logits)


def _network(architecture: Architecture, weights: dict[str, Any]) -> Any:
    try:
        module = architecture.network()
    except (ImportError, AttributeError, TypeError) as error:
        raise Unusable("unfit", f"its architecture cannot be made: {error}") from error
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise Unusable("unfit", " ".join(str(error).split())) from error
    return module.eval().float()


def _safetensors(data: bytes) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Any] = load(data)
    except (SafetensorError, KeyError) as error:
        raise Unusable("unreadable", f"no safetensors file: {error}") from error
    return found


def _state_dict(data: bytes) -> dict[str, Any]:
    import pickle

    import torch

    names = _archive(data).namelist()
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise Unusable("pickle", "a TorchScript archive, which holds code; export it as .pt2")
    try:
        found: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unusable("pickle", "would have to be unpickled; save its state_dict()") from error
    except (RuntimeError, ValueError, EOFError) as error:
        raise Unusable("unreadable", f"no state dict: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise Unusable("unfit", "no state dict: holds more than tensors by name")
    return found


def _archive(data: bytes) -> zipfile.ZipFile:
    """The archive, as torch writes it: nothing in it is compressed, so nothing can swell."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        cause = "pickle" if data[:1] == b"\x80" else "unreadable"
        raise Unusable(cause, "a pickle" if cause == "pickle" else f"no archive: {error}") from error
    members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > len(data):
        raise Unusable("unreadable", "an archive that unpacks to more than it holds")
    return archive
