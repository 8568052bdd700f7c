"""Chance level: what a matcher scores when the references' labels mean nothing."""

from __future__ import annotations

import torch

from refexp.matchers.prototype import PrototypeMatcher
from refexp.method.memory import build_bank
from refexp.types import Candidates, MemoryBank, Proposals


class ShuffledMatcher:
    """Control: prototype matching after the references were dealt out to the classes at random."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates:
        """M proposals -> N = M candidates, in proposal order; each class keeps its number of references."""
        generator = torch.Generator().manual_seed(self.seed)
        pool = torch.cat(bank.instances)
        pool = pool[torch.randperm(len(pool), generator=generator)]
        shuffled = build_bank(pool.split([len(rows) for rows in bank.instances]))
        return PrototypeMatcher().match(proposals, shuffled)
