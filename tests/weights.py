"""Seeded random weights in the layout of the official checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from refexp.encoders.dinov2 import DINOv2
from refexp.machine.checkpoints import CHECKPOINTS
from refexp.proposers.sam2 import build_sam2


def save_sam2(name: str, folder: Path, seed: int = 0) -> Path:
    """`{"model": state_dict}`, as Meta publishes SAM2."""
    path = folder / CHECKPOINTS[name].file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save({"model": build_sam2(name).state_dict()}, path)
    return path


def save_dinov2(arch: str, folder: Path, seed: int = 0) -> DINOv2:
    """A flat state dict with mask token, register tokens and the class token's own position, as Meta publishes DINOv2.

    Gives the encoder whose weights were written.
    """
    encoder = DINOv2(arch, weights="random", random_seed=seed)
    encoder.load(torch.device("cpu"))
    state = dict(encoder.model.state_dict())
    state["mask_token"] = torch.zeros(1, state["norm.weight"].numel())
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        class_position = torch.randn(1, 1, state["norm.weight"].numel(), generator=torch.Generator().manual_seed(seed))
        state["cls_token"] = state["cls_token"] - class_position
        state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    state = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") if "vitg" in arch else key: value
             for key, value in state.items()}  # fmt: skip
    torch.save(state, folder / CHECKPOINTS[encoder.name].file)
    return encoder
