"""What training, evaluation and inference ask of a model definition, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Array]
RowKind = Literal["encoder_decoder", "decoder_only"]


class LanguageModel(Protocol):
    """`EncoderDecoderModel` or `DecoderOnlyModel`.

    Attributes:
      module: the network's configuration; has at least `vocab_size` and `dropout_rate`.
      input_vocabulary, output_vocabulary: tokenisers of prompts and of answers.
      optimizer_def: e.g. `flan_jax.train.optimizer.Adafactor`.
      row_kind: which arrays the rows of its batches have: those of `flan_jax.data.packing` or of
        `flan_jax.data.decoder_only`.
    """

    @property
    def module(self) -> Any: ...
    @property
    def input_vocabulary(self) -> Any: ...
    @property
    def output_vocabulary(self) -> Any: ...
    @property
    def optimizer_def(self) -> Any: ...
    @property
    def row_kind(self) -> RowKind: ...

    def init(self, key: Key[Array, ""]) -> Any:
        """Fresh float32 parameters; traceable (`jax.eval_shape`, `jax.jit` with out_shardings)."""
        ...

    def loss_divisor(self, batch: Batch) -> float | Float[Array, ""]:
        """What the summed loss of `batch` is divided by."""
        ...

    def loss_fn(
        self,
        model: Any,
        batch: Batch,
        dropout_key: Key[Array, ""] | None,
        num_tasks: int | None = None,
        divisor: float | Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The training loss and metrics to be summed over batches; see `losses.Loss`."""
        ...

    def score_batch(self, model: Any, batch: Batch) -> Float[Array, " batch"]:
        """Log-likelihood of each row's targets: weighted sum over tokens, no z-loss."""
        ...
