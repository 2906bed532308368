"""Three torch models that were never trained, in the three formats a committee is made of."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

INPUTS, CLASSES = 4, 3
NAMES = ("a.pt2", "b.safetensors", "c.pt")
_HIDDEN = {"a.pt2": 16, "b.safetensors": 12, "c.pt": 8}


def network(torch: Any, name: str, seed: int = 0) -> Any:
    """The module behind a file of this name, in evaluation mode."""
    torch.manual_seed(seed * 10 + NAMES.index(name))
    nn, hidden = torch.nn, _HIDDEN[name]
    return nn.Sequential(nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, CLASSES)).eval()


def file(torch: Any, name: str, seed: int = 0) -> bytes:
    """What is in it."""
    module = network(torch, name, seed)
    if name.endswith(".pt2"):
        return exported(torch, module)
    if name.endswith(".safetensors"):
        from safetensors.torch import save

        return bytes(save(module.state_dict()))
    held = io.BytesIO()
    torch.save(module.state_dict(), held)
    return held.getvalue()


def exported(torch: Any, module: Any, *, fixed: bool = False, inputs: int = INPUTS) -> bytes:
    """A module as an exported program, for any number of rows or for two."""
    held = io.BytesIO()
    free = None if fixed else ({0: torch.export.Dim("rows", min=1)},)
    with warnings.catch_warnings(action="ignore"):  # of torch's own making
        torch.export.save(torch.export.export(module, (torch.zeros(2, inputs),), dynamic_shapes=free), held)
    return held.getvalue()


def digest(data: bytes) -> str:
    """As a configuration pins it."""
    return hashlib.sha256(data).hexdigest()


def put(path: Path, data: bytes) -> None:
    """A file and its digest beside it."""
    path.write_bytes(data)
    path.with_name(path.name + ".sha256").write_text(f"{digest(data)}  {path.name}\n")


def member(path: str, **more: Any) -> dict[str, Any]:
    """A member as a configuration names it."""
    name = path.rpartition("/")[2]
    if name.endswith(".pt2"):
        return {"path": path, **more}
    sizes = [INPUTS, _HIDDEN[name], CLASSES]
    return {"path": path, "architecture": {"kind": "mlp", "sizes": sizes, "dropout": 0.2}, **more}
