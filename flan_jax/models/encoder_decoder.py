"""Loss and metrics of an encoder-decoder model, with T5X's semantics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gin
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key

from flan_jax.models.t5 import T5, T5Config
from flan_jax.suggestions import did_you_mean

Batch = Mapping[str, Array]
SPECIAL_NORMALIZING_FACTORS = (
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
)


def cross_entropy_with_logits(
    logits: Float[Array, "batch length vocab"],
    targets: Int[Array, "batch length"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Loss of each token (z-loss included) and its z-loss part, float32.

    Smoothed targets put 1 - label_smoothing on the label and share the rest among the other
    vocab - 1 entries; their entropy is subtracted, so a perfect prediction has loss 0 (T5X,
    losses.py). z-loss is z_loss * log(Z)**2 (Mesh TensorFlow), which keeps logits from drifting.
    """
    vocab = logits.shape[-1]
    confidence = 1.0 - label_smoothing
    low = label_smoothing / (vocab - 1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_target = jnp.arange(vocab) == targets[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    cross_entropy = log_z - target_logit
    if label_smoothing:
        mean_logit = (confidence - low) * target_logit + low * jnp.sum(logits, axis=-1)
        entropy = -(confidence * jnp.log(confidence) + (vocab - 1) * low * jnp.log(low + 1e-20))
        cross_entropy = log_z - mean_logit - entropy
    z_part = z_loss * jnp.square(log_z)
    return cross_entropy + z_part, z_part


def _weights(batch: Batch) -> Float[Array, "batch length"]:
    weights = batch.get("decoder_loss_weights")
    weights = batch["decoder_target_tokens"] > 0 if weights is None else weights
    return weights.astype(jnp.float32)


def _weights_and_divisor(
    factor: float | str | None, batch: Batch, weights: Float[Array, "batch length"]
) -> tuple[Float[Array, "batch length"], float | Float[Array, ""]]:
    """Token weights and the number the summed loss is divided by."""
    if factor is None:
        return weights, 1.0
    if not isinstance(factor, str):
        return weights, float(factor)
    if factor == "NUM_REAL_TARGET_TOKENS":
        return weights, jnp.sum(weights)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return weights, float(weights.size)
    segments = batch.get("decoder_segment_ids")
    if segments is None:
        totals = jnp.sum(weights, axis=-1, keepdims=True)
    else:
        same = (segments[:, :, None] == segments[:, None, :]).astype(jnp.float32)
        totals = jnp.sum(same * weights[:, None, :], axis=-1)
    weights = jnp.where(totals > 0, weights / jnp.where(totals > 0, totals, 1.0), 0.0)
    return weights, jnp.sum(weights)


def _sum_by_task(
    values: Float[Array, "batch length"], task_ids: Int[Array, "batch length"], num_tasks: int
) -> Float[Array, " tasks"]:
    """Sums over the positions of each task; ids out of range (-1, padding) are dropped."""

    def segment_sum(values: Array, task_ids: Array) -> Array:
        # One more bin collects the padding: a negative id would count from the end.
        bins = jnp.where(task_ids < 0, num_tasks, task_ids)
        return jax.ops.segment_sum(values.ravel(), bins.ravel(), num_tasks + 1)[:num_tasks]

    if jax.sharding.get_abstract_mesh().empty:
        return segment_sum(values, task_ids)
    # Scatter has no rule for shardings in types: leave its layout to the compiler.
    auto: Any = jax.sharding.auto_axes(segment_sum, out_sharding=PartitionSpec(None))
    return auto(values, task_ids)


@gin.configurable(module="models")
@dataclass(frozen=True)
class EncoderDecoderModel:
    """A T5 configuration, its vocabularies, optimizer definition and loss.

    Attributes:
      module: the network's configuration.
      input_vocabulary, output_vocabulary: SeqIO-like vocabularies, for the data pipeline and
        predictions; not used by the loss.
      optimizer_def: e.g. `flan_jax.train.optimizer.Adafactor`.
      label_smoothing, z_loss: see `cross_entropy_with_logits`.
      loss_normalizing_factor: None: the loss is a SUM over target tokens (T5X's default); a number
        to divide by; "NUM_REAL_TARGET_TOKENS": the sum of weights; "NUM_TOTAL_TARGET_TOKENS":
        padding too; "AVERAGE_PER_SEQUENCE": mean over (packed) sequences of their token means.
    """

    module: T5Config
    input_vocabulary: Any = None
    output_vocabulary: Any = None
    optimizer_def: Any = None
    label_smoothing: float = 0.0
    z_loss: float = 1e-4
    loss_normalizing_factor: float | str | None = None

    def __post_init__(self) -> None:
        factor = self.loss_normalizing_factor
        if isinstance(factor, str):
            if factor.upper() not in SPECIAL_NORMALIZING_FACTORS:
                raise ValueError(
                    "loss_normalizing_factor must be None, a number or one of"
                    f" {SPECIAL_NORMALIZING_FACTORS}, found {factor!r}"
                    f"{did_you_mean(factor, SPECIAL_NORMALIZING_FACTORS)}"
                )
            object.__setattr__(self, "loss_normalizing_factor", factor.upper())
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), found {self.label_smoothing}.")

    def init(self, key: Key[Array, ""]) -> T5:
        """Fresh float32 parameters; traceable (`jax.eval_shape`, `jax.jit` with out_shardings)."""
        return T5(self.module, key)

    def loss_divisor(self, batch: Batch) -> float | Float[Array, ""]:
        """What the summed loss of `batch` is divided by.

        Microbatches are divided by that of the batch they are parts of, so that accumulating
        gradients changes nothing. (T5X normalises each part by itself.)
        """
        return _weights_and_divisor(self.loss_normalizing_factor, batch, _weights(batch))[1]

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
          The loss (normalised), and float32 sums: "loss" (the same number), "z_loss" (its z-loss
          part), "cross_entropy" (sum over tokens of weight * loss without z-loss, not normalised),
          "weight_sum", "correct" (weights of tokens predicted right), and with num_tasks
          "per_task_loss" and "per_task_weight_sum" [num_tasks], where per_task_loss is split from
          "cross_entropy": their quotient is a task's mean loss per token.
        """
        targets, weights = batch["decoder_target_tokens"], _weights(batch)
        logits = model(batch, dropout_key=dropout_key)
        token_loss, token_z_loss = cross_entropy_with_logits(
            logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        loss_weights, own = _weights_and_divisor(self.loss_normalizing_factor, batch, weights)
        divisor = own if divisor is None else divisor
        loss = jnp.sum(token_loss * loss_weights) / divisor
        token_cross_entropy = jax.lax.stop_gradient((token_loss - token_z_loss) * weights)
        correct = jnp.argmax(logits, axis=-1) == targets
        metrics = {
            "loss": loss,
            "z_loss": jnp.sum(token_z_loss * loss_weights) / divisor,
            "cross_entropy": jnp.sum(token_cross_entropy),
            "weight_sum": jnp.sum(weights),
            "correct": jnp.sum(correct * weights),
        }
        if num_tasks is not None:
            task_ids = batch["decoder_task_ids"]
            metrics["per_task_loss"] = _sum_by_task(token_cross_entropy, task_ids, num_tasks)
            metrics["per_task_weight_sum"] = _sum_by_task(weights, task_ids, num_tasks)
        return loss, metrics

    def score_batch(self, model: T5, batch: Batch) -> Float[Array, " batch"]:
        """Log-likelihood of each row's targets: weighted sum over tokens, no z-loss."""
        targets, weights = batch["decoder_target_tokens"], _weights(batch)
        token_loss, _ = cross_entropy_with_logits(model(batch), targets)
        return -jnp.sum(token_loss * weights, axis=-1)
