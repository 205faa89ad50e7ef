"""`flan_jax` as a model of lm-evaluation-harness (tested with 0.4.13).

An encoder-decoder reads the context and its end-of-sequence id in the encoder; the decoder scores
or writes the rest. A decoder-only model reads the same, as it does in training here, unless
`prompt_eos=false`: then context and continuation are one text, as the harness has it for others.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from flan_jax.draws import stable_hash
from flan_jax.errors import UserError
from flan_jax.lm_eval_adapter.batches import Batches, Ids
from flan_jax.lm_eval_adapter.generation_arguments import Generation, cut, read_arguments
from flan_jax.lm_eval_adapter.loading import LoadedModel, load_from_gin
from flan_jax.lm_eval_adapter.registration import NAME
from flan_jax.suggestions import did_you_mean

_log = logging.getLogger(__name__)
_ARGUMENTS = (
    "checkpoint", "gin_file", "batch_size", "inputs_length", "max_gen_toks", "prompt_eos", "seed",
)  # fmt: skip


@register_model(NAME)
class FlanJaxLM(LM):
    """A checkpoint of any format that we read, on all devices of this machine.

    Args:
      checkpoint: as CHECKPOINT_PATH.
      gin_file: gin files of the model and its vocabulary, joined by `+`.
      batch_size: prompts at a time, over all devices.
      inputs_length: most tokens of a context; longer ones lose their beginning.
      max_gen_toks: most tokens of an answer where the task does not say.
      prompt_eos: whether a decoder-only model's prompt ends in an end-of-sequence id.
      seed: of what is sampled.
      macros: further macros of the gin files, such as ACTIVATION_DTYPE=float32.

    Raises:
      UserError: an argument is not known, or the checkpoint does not fit.
    """

    def __init__(
        self,
        checkpoint: str = "",
        gin_file: str = "",
        batch_size: int | str = 8,
        inputs_length: int = 1024,
        max_gen_toks: int = 256,
        prompt_eos: bool = True,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        **macros: Any,
    ):
        super().__init__()
        del device, max_batch_size  # JAX's devices are chosen by JAX_PLATFORMS
        unknown = [name for name in macros if not name.isupper()]
        if unknown:
            raise UserError(
                f"--model_args has {unknown[0]!r}, which is neither an argument "
                f"({', '.join(_ARGUMENTS)}) nor a macro (in capitals)"
                + did_you_mean(unknown[0], _ARGUMENTS)
            )
        loaded = load_from_gin(str(checkpoint), gin_file, _batch_size(batch_size), macros)
        self._serve(loaded, inputs_length, max_gen_toks, prompt_eos, seed)

    def _serve(
        self,
        loaded: LoadedModel,
        inputs_length: int,
        max_gen_toks: int,
        prompt_eos: bool,
        seed: int,
    ) -> None:
        self.batches = Batches(loaded, inputs_length, seed)
        self.max_gen_toks = max_gen_toks
        self._inputs = loaded.model.input_vocabulary
        self._outputs = loaded.model.output_vocabulary
        self._separate = loaded.model.row_kind == "encoder_decoder" or prompt_eos

    @classmethod
    def serving(
        cls,
        loaded: LoadedModel,
        *,
        inputs_length: int = 1024,
        max_gen_toks: int = 256,
        prompt_eos: bool = True,
        seed: int = 0,
    ) -> FlanJaxLM:
        """The same of a model that is loaded already, for `lm_eval.simple_evaluate`."""
        self = cls.__new__(cls)
        super().__init__(self)
        self._serve(loaded, inputs_length, max_gen_toks, prompt_eos, seed)
        return self

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FlanJaxLM:
        """For the harness: what --model_args says counts more than --batch_size and --device."""
        others = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**others, **arg_dict})

    @property
    def tokenizer_name(self) -> str:
        """Tells vocabularies apart in the harness's cache of requests."""
        return repr(self._inputs).replace("/", "-")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each (context, continuation), see `LM`. The end-of-sequence id is not scored."""
        pairs = [self._pair(*request.args) for request in requests]
        self._count_cut([prompt for prompt, _ in pairs])
        found = self.batches.scores(pairs)
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of each text, in windows of `inputs_length` tokens, see `LM`. An encoder reads what came
        before the window's new tokens (mostly one token), the decoder scores them.
        """
        pairs: list[tuple[Ids, Ids]] = []
        owners: list[int] = []
        eos, length = self._outputs.eos_id, self.batches.inputs_length
        for number, request in enumerate(requests):
            tokens = self._outputs.encode(request.args[0])
            for window in get_rolling_token_windows(tokens, eos, length, 1):
                before, new = make_disjoint_window(window)
                # An encoder is never given nothing; a decoder starts by itself.
                before = [t for t in before if t != eos] + ([eos] if self._separate else [])
                pairs.append((tuple(before), tuple(new)))
                owners.append(number)
        found = [0.0] * len(requests)
        for number, (total, _) in zip(owners, self.batches.scores(pairs), strict=True):
            found[number] += total
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Of each (context, arguments), see `LM` and `read_arguments`. A stop text cuts the output;
        it does not end the decoding, which goes on to the end of the sequence or the most tokens.
        """
        prompts = [self._prompt(request.args[0]) for request in requests]
        self._count_cut(prompts)
        names = _names(requests)
        ways = [read_arguments(request.args[-1], self.max_gen_toks) for request in requests]
        found = [""] * len(requests)
        for way in dict.fromkeys(ways):
            members = [i for i, each in enumerate(ways) if each == way]
            texts = self._generate([prompts[i] for i in members], [names[i] for i in members], way)
            for i, text in zip(members, texts, strict=True):
                found[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return found

    def _generate(self, prompts: list[Ids], names: list[int], way: Generation) -> list[str]:
        outputs = self.batches.continuations(prompts, names, way.config)
        return [cut(self._outputs.decode(ids), way.until) for ids in outputs]

    def _prompt(self, context: str) -> Ids:
        ids = self._inputs.encode(context)
        return tuple([*ids, self._inputs.eos_id] if self._separate else ids)

    def _pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        if self._separate:
            return self._prompt(context), tuple(self._outputs.encode(continuation))
        # Spaces belong to the word that follows them.
        kept = context.rstrip()
        whole = self._outputs.encode(context + continuation)
        prompt = self._outputs.encode(kept)
        return tuple(prompt), tuple(whole[len(prompt) :])

    def _count_cut(self, prompts: list[Ids]) -> None:
        most = self.batches.inputs_length
        long = sum(len(prompt) > most for prompt in prompts)
        if long:
            _log.warning(
                "%d of %d contexts exceed inputs_length=%d tokens and lost their beginning",
                long,
                len(prompts),
                most,
            )


def _batch_size(value: int | str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(
            f"batch_size must be a whole number, found {value!r}; there is no search for one"
        ) from None


def _names(requests: list[Instance]) -> list[int]:
    """What a request's samples are keyed by: its context, and how often that came before."""
    seen: Counter[str] = Counter()
    names = []
    for request in requests:
        context = request.args[0]
        names.append(stable_hash("lm_eval", context, seen[context]) & 0xFFFFFFFF)
        seen[context] += 1
    return names
