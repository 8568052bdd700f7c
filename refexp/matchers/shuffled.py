"""Chance level: matching with random labels of the references."""

from __future__ import annotations

import torch

from refexp.matchers.prototype import PrototypeMatcher
from refexp.method.memory import build_bank
from refexp.types import Candidates, MemoryBank, Proposals


class ShuffledMatcher:
    """A control experiment: assigns the references to the classes at random, then matches with prototypes."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates:
        """Match M proposals. Returns N = M candidates, in proposal order. Each class keeps its number of references."""
        generator = torch.Generator().manual_seed(self.seed)
        pool = torch.cat(bank.instances)
        pool = pool[torch.randperm(len(pool), generator=generator)]
        shuffled = build_bank(pool.split([len(rows) for rows in bank.instances]))
        return PrototypeMatcher().match(proposals, shuffled)
