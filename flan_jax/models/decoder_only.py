"""A decoder-only model with its vocabulary, optimizer and loss, with T5X's semantics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gin
from jaxtyping import Array, Float, Key

from flan_jax.models.language_model import Batch, RowKind
from flan_jax.models.losses import Loss, sequence_scores
from flan_jax.models.palm import Palm, PalmConfig

_PREFIX = "decoder_causal_attention"


@gin.configurable(module="models")
@dataclass(frozen=True)
class DecoderOnlyModel:
    """A PaLM configuration, its vocabulary, optimizer definition and loss.

    Attributes:
      module: the network's configuration.
      vocabulary: SeqIO-like, of inputs and targets alike; not used by the loss.
      optimizer_def: e.g. `flan_jax.train.optimizer.Adafactor`.
      inputs_bidirectional_attention: whether inputs see each other whole (a prefix language model)
        or only what came before, as targets do.
      loss_on_targets_only: whether only targets weigh in the loss, as decoder_loss_weights say. If
        not, every token weighs 1, and attention must be causal: what a prefix sees, it need not
        predict.
      label_smoothing, z_loss, loss_normalizing_factor: see `flan_jax.models.losses.Loss`.
    """

    module: PalmConfig
    vocabulary: Any = None
    optimizer_def: Any = None
    inputs_bidirectional_attention: bool = False
    loss_on_targets_only: bool = True
    label_smoothing: float = 0.0
    z_loss: float = 1e-4
    loss_normalizing_factor: float | str | None = None

    def __post_init__(self) -> None:
        # A factor's name is kept in capitals.
        object.__setattr__(self, "loss_normalizing_factor", self._loss.normalizing_factor)
        if self.inputs_bidirectional_attention and not self.loss_on_targets_only:
            raise ValueError(
                "DecoderOnlyModel.loss_on_targets_only=False (LOSS_ON_TARGETS_ONLY) needs"
                " inputs_bidirectional_attention=False (INPUTS_BIDIRECTIONAL): inputs that see each"
                " other whole would be asked to predict what they see."
            )

    @property
    def input_vocabulary(self) -> Any:
        """Of prompts: the same as of answers, for they are one sequence."""
        return self.vocabulary

    @property
    def output_vocabulary(self) -> Any:
        """Of answers."""
        return self.vocabulary

    @property
    def row_kind(self) -> RowKind:
        """Inputs and targets are one sequence."""
        return "decoder_only"

    @property
    def _loss(self) -> Loss:
        return Loss(self.label_smoothing, self.z_loss, self.loss_normalizing_factor)

    def init(self, key: Key[Array, ""]) -> Palm:
        """Fresh float32 parameters; traceable (`jax.eval_shape`, `jax.jit` with out_shardings)."""
        return Palm(self.module, key)

    def logits(
        self, model: Palm, batch: Batch, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of every position; the batch's prefix counts only if inputs see it whole.

        Raises:
          ValueError: inputs are to see each other, and the batch does not say which they are.
        """
        return model(self._seen(batch), dropout_key=dropout_key)

    def _seen(self, batch: Batch) -> Batch:
        """The batch as the network sees it."""
        if not self.inputs_bidirectional_attention:
            return {name: rows for name, rows in batch.items() if name != _PREFIX}
        if _PREFIX not in batch:
            raise ValueError(f"inputs_bidirectional_attention needs {_PREFIX!r} in the batch.")
        return batch

    def _weighed(self, batch: Batch) -> Batch:
        """The batch as the loss sees it."""
        if self.loss_on_targets_only:
            return batch
        return {**batch, "decoder_loss_weights": batch["decoder_target_tokens"] > 0}

    def loss_divisor(self, batch: Batch) -> float | Float[Array, ""]:
        """What the summed loss of `batch` is divided by; see `Loss.divisor`."""
        return self._loss.divisor(self._weighed(batch))

    def loss_fn(
        self,
        model: Palm,
        batch: Batch,
        dropout_key: Key[Array, ""] | None,
        num_tasks: int | None = None,
        divisor: float | Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The training loss and metrics to be summed over batches.

        Args:
          model: parameters.
          batch: see `Palm.__call__`; decoder_loss_weights are 0 on inputs and padding.
          dropout_key: None for no dropout.
          num_tasks: if given, batch["decoder_task_ids"] (-1 on padding) splits the loss by task.
          divisor: `loss_divisor` of the whole batch, if `batch` is a part of it.

        Returns:
          See `Loss.of_states`.
        """
        head, weighed = model.head(), self._weighed(batch)
        if head is None:
            logits = self.logits(model, batch, dropout_key)
            return self._loss.of_logits(logits, weighed, num_tasks, divisor)
        states = model.states(self._seen(batch), dropout_key)
        return self._loss.of_states(states, head, weighed, num_tasks, divisor)

    def score_batch(self, model: Palm, batch: Batch) -> Float[Array, " batch"]:
        """Log-likelihood of each row's targets: weighted sum over tokens, no z-loss."""
        return sequence_scores(self.logits(model, batch), batch)
