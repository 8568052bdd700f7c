"""`sweep.zip`: keys whose values go in pairs, instead of all combinations."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from refexp.errors import RefexpError
from refexp.show.tables.settings import key_of


def in_pairs(overrides: list[Override], keys: Sequence[str]) -> list[list[Override]]:
    """The overrides once for each position in the lists of these keys, with the values at that position.

    Raises RefexpError if a key has no list of values, or the lists differ in length.
    """
    lists = {
        key_of(override.get_key_element()): list(override.sweep_string_iterator())
        for override in overrides
        if override.is_discrete_sweep()
    }
    for key in keys:
        if key not in lists:
            raise RefexpError(f"sweep.zip: {key} has no list of values; give {key}=A,B,..., or leave it out.")
    counts = {key: len(lists[key]) for key in keys}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise RefexpError(f"sweep.zip: pairs need as many values of each key; {found}.")
    parse = OverridesParser.create().parse_override

    def at(override: Override, place: int) -> Override:
        key = key_of(override.get_key_element())
        return parse(f"{override.get_key_element()}={lists[key][place]}") if key in keys else override

    return [[at(override, place) for override in overrides] for place in range(max(counts.values(), default=1))]
