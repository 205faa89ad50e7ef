"""UL2's mixture of denoisers (Tay et al., 2022, arXiv 2205.05131), and what UL2R made of it.

gin/objectives/ul2.gin has the seven denoisers of its Table 1, gin/objectives/ul2r.gin those of
U-PaLM (Tay et al., 2022, arXiv 2210.11399, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import gin

from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.objectives.denoiser import BoundObjective, Denoiser

Mode = str | int | tuple[int, ...]


@gin.configurable(module="objectives")
@dataclass(frozen=True)
class MixtureOfDenoisers:
    """Draws one of several denoisers for each example, and tells the model which kind it is.

    Attributes:
      denoisers: what is drawn from.
      modes: what each puts before its inputs: a text, which is tokenised by the model's vocabulary
        (as UL2's `[NLU]`, `[NLG]` and `[S2S]` are), an id, or several ids. None for nothing at all.
        An id that is a sentinel marks no spans any more.
      rates: how often each is drawn, relative to each other; None for equally often.
    """

    denoisers: tuple[Denoiser, ...]
    modes: tuple[Mode, ...] | None = None
    rates: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_denoisers(self.denoisers)
        object.__setattr__(self, "denoisers", tuple(self.denoisers))
        for name in ("modes", "rates"):
            values = getattr(self, name)
            if values is None:
                continue
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise _wrong(f"{name} must be a sequence or None, found {values!r}")
            values = tuple(tuple(v) if isinstance(v, list) else v for v in values)
            if len(values) != len(self.denoisers):
                raise _wrong(
                    f"has {len(self.denoisers)} denoisers and {len(values)} {name}; "
                    "give one for each"
                )
            object.__setattr__(self, name, values)
        _check_rates(self.rates)

    def bind(self, vocabulary: Vocabulary) -> BoundObjective:
        """The mixture with ids of `vocabulary`.

        Raises:
          UserError: a mode is empty, has ids that the vocabulary does not know, or is the beginning
            of another; or there are no sentinels left, and a denoiser needs some.
        """
        count = len(self.denoisers)
        rates = self.rates or (1.0,) * count
        if self.modes is None:
            modes: tuple[tuple[int, ...], ...] = ((),) * count
        else:
            ids = {mode: _mode_ids(mode, vocabulary) for mode in self.modes}
            _check_distinct(ids)
            modes = tuple(ids[mode] for mode in self.modes)
        taken = {token for mode in modes for token in mode}
        sentinels = tuple(token for token in vocabulary.sentinels if token not in taken)
        return BoundObjective(self.denoisers, rates, modes, sentinels)


def _wrong(what: str) -> UserError:
    return UserError(f"objectives.MixtureOfDenoisers {what}")


def _check_denoisers(denoisers: Sequence[Denoiser]) -> None:
    if not isinstance(denoisers, (list, tuple)) or not denoisers:
        raise _wrong(f"needs a sequence of denoisers, found {denoisers!r}")
    for denoiser in denoisers:
        if not isinstance(denoiser, Denoiser):
            called = " (call it: write () after its name)" if isinstance(denoiser, type) else ""
            raise _wrong(
                "draws from objectives.SpanCorruption, PrefixLM and CausalLM, found "
                f"{denoiser!r}{called}"
            )


def _check_rates(rates: Sequence[float] | None) -> None:
    if rates is None:
        return
    numbers = all(isinstance(rate, int | float) and math.isfinite(rate) for rate in rates)
    if not numbers or min(rates) < 0 or sum(rates) <= 0:
        raise _wrong(f"rates must be numbers of 0 or more, not all 0, found {rates!r}")


def _mode_ids(mode: Mode, vocabulary: Vocabulary) -> tuple[int, ...]:
    if isinstance(mode, str):
        ids = tuple(vocabulary.encode(mode))
        if not ids or vocabulary.unk_id in ids:
            raise _wrong(
                f"mode {mode!r} is {list(ids)} in {vocabulary}: "
                + ("it has no ids" if not ids else f"it does not know all of it ({_UNKNOWN})")
            )
        return ids
    ids = mode if isinstance(mode, tuple) else (mode,)
    special = {vocabulary.pad_id, vocabulary.eos_id}
    valid = all(
        isinstance(i, int) and 0 <= i < vocabulary.vocab_size and i not in special for i in ids
    )
    if not ids or not valid:
        raise _wrong(
            f"mode {mode!r} must be a text, or ids from 0 to {vocabulary.vocab_size - 1} that are "
            f"neither padding ({vocabulary.pad_id}) nor the end ({vocabulary.eos_id})"
        )
    return ids


_UNKNOWN = "choose another text, or give ids, such as those of sentinels that you can spare"


def _check_distinct(ids: dict[Mode, tuple[int, ...]]) -> None:
    """A model must be able to tell modes apart by what they begin with."""
    for mode, mine in ids.items():
        for other, theirs in ids.items():
            if mode != other and theirs[: len(mine)] == mine:
                raise _wrong(
                    f"mode {other!r}, which is {list(theirs)}, begins with mode {mode!r}, which is "
                    f"{list(mine)}: they cannot be told apart"
                )
