"""What a result says about its own cost: the keys of a result's metadata that count.

An executor that talks to a language model puts these into `ExecutionResult.metadata`:

* `model`: the model's name;
* `usage`: an object with `input_tokens` (the uncached ones), `output_tokens`,
  `cache_read_input_tokens` and `cache_creation_input_tokens`, the names of the Messages
  API; each is optional, and may also stand in the metadata itself;
* `cost_usd`: the price in dollars.

Whatever is missing, negative or no number counts nothing: metadata are user input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

TOKEN_KINDS: Mapping[str, str] = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_input_tokens": "cache_read",
    "cache_creation_input_tokens": "cache_write",
}
"""Key in the metadata -> value of the label `kind`."""
MODEL_LENGTH_MAX = 100


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one execution; `tokens` holds only the kinds that were reported."""

    model: str
    tokens: Mapping[str, int]
    cost_usd: float | None


def usage_of(metadata: msgspec.Raw | str | None) -> Usage | None:
    """Return what a result's metadata say about its cost; None when they say nothing."""
    known = _object(metadata)
    model = known.get("model")
    if not isinstance(model, str) or not model:
        return None
    details = known.get("usage")
    counted = details if isinstance(details, dict) else known
    tokens = {
        kind: int(number)
        for key, kind in TOKEN_KINDS.items()
        if (number := _number(counted.get(key))) is not None
    }
    cost = _number(known.get("cost_usd"))
    if not tokens and cost is None:
        return None
    return Usage(model=model[:MODEL_LENGTH_MAX], tokens=tokens, cost_usd=cost)


def _object(metadata: msgspec.Raw | str | None) -> dict[str, object]:
    if metadata is None:
        return {}
    try:
        known = msgspec.json.decode(metadata)
    except msgspec.DecodeError:
        return {}
    return known if isinstance(known, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
