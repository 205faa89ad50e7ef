"""An encoder-decoder model with its vocabularies, optimizer and loss, with T5X's semantics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gin
from jaxtyping import Array, Float, Key

from flan_jax.models.language_model import Batch, RowKind
from flan_jax.models.losses import Loss, cross_entropy_with_logits, sequence_scores
from flan_jax.models.t5 import T5, T5Config

__all__ = ["EncoderDecoderModel", "cross_entropy_with_logits"]


@gin.configurable(module="models")
@dataclass(frozen=True)
class EncoderDecoderModel:
    """A T5 configuration, its vocabularies, optimizer definition and loss.

    Attributes:
      module: the network's configuration.
      input_vocabulary, output_vocabulary: SeqIO-like vocabularies, for the data pipeline and
        predictions; not used by the loss.
      optimizer_def: e.g. `flan_jax.train.optimizer.Adafactor`.
      label_smoothing, z_loss, loss_normalizing_factor: see `flan_jax.models.losses.Loss`.
    """

    module: T5Config
    input_vocabulary: Any = None
    output_vocabulary: Any = None
    optimizer_def: Any = None
    label_smoothing: float = 0.0
    z_loss: float = 1e-4
    loss_normalizing_factor: float | str | None = None

    def __post_init__(self) -> None:
        # A factor's name is kept in capitals.
        object.__setattr__(self, "loss_normalizing_factor", self._loss.normalizing_factor)

    @property
    def row_kind(self) -> RowKind:
        """Inputs and targets are two sequences."""
        return "encoder_decoder"

    @property
    def _loss(self) -> Loss:
        return Loss(self.label_smoothing, self.z_loss, self.loss_normalizing_factor)

    def init(self, key: Key[Array, ""]) -> T5:
        """Fresh float32 parameters; traceable (`jax.eval_shape`, `jax.jit` with out_shardings)."""
        return T5(self.module, key)

    def loss_divisor(self, batch: Batch) -> float | Float[Array, ""]:
        """What the summed loss of `batch` is divided by; see `Loss.divisor`."""
        return self._loss.divisor(batch)

    def loss_fn(
        self,
        model: T5,
        batch: Batch,
        dropout_key: Key[Array, ""] | None,
        num_tasks: int | None = None,
        divisor: float | Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The training loss and metrics to be summed over batches.

        Args:
          model: parameters.
          batch: see `T5.__call__`; decoder_loss_weights default to 1 on targets > 0.
          dropout_key: None for no dropout.
          num_tasks: if given, batch["decoder_task_ids"] (-1 on padding) splits the loss by task.
          divisor: `loss_divisor` of the whole batch, if `batch` is a part of it.

        Returns:
          See `Loss.of_states`.
        """
        head = model.head()
        if head is None:
            logits = model(batch, dropout_key=dropout_key)
            return self._loss.of_logits(logits, batch, num_tasks, divisor)
        states = model.states(batch, dropout_key)
        return self._loss.of_states(states, head, batch, num_tasks, divisor)

    def score_batch(self, model: T5, batch: Batch) -> Float[Array, " batch"]:
        """Log-likelihood of each row's targets: weighted sum over tokens, no z-loss."""
        return sequence_scores(model(batch), batch)
