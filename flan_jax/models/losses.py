"""The loss of a language model and its metrics, with T5X's semantics, whatever the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from flan_jax.layout import out_sharding
from flan_jax.models.head_loss import Head, TokenStatistics, weighted_loss
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
    log_z, target_logit = _log_z_and_target_logit(logits, targets)
    cross_entropy = log_z - target_logit
    if label_smoothing:
        mean_logit = (confidence - low) * target_logit + low * jnp.sum(logits, axis=-1)
        entropy = -(confidence * jnp.log(confidence) + (vocab - 1) * low * jnp.log(low + 1e-20))
        cross_entropy = log_z - mean_logit - entropy
    z_part = z_loss * jnp.square(log_z)
    return cross_entropy + z_part, z_part


@jax.custom_vjp
def _log_z_and_target_logit(
    logits: Float[Array, "batch length vocab"], targets: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Logsumexp of the logits, and the logit of the target."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    if out_sharding() is None:
        at = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="fill", fill_value=0.0)
        return log_z, at[..., 0]
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    return log_z, jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)


def _is_target(logits: Array, targets: Array) -> Bool[Array, "batch length vocab"]:
    return jnp.arange(logits.shape[-1]) == targets[..., None]


def _log_z_and_target_logit_forward(
    logits: Array, targets: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    log_z, target_logit = _log_z_and_target_logit(logits, targets)
    return (log_z, target_logit), (logits, targets, log_z)


def _log_z_and_target_logit_backward(
    kept: tuple[Array, Array, Array], grads: tuple[Array, Array]
) -> tuple[Array, None]:
    logits, targets, log_z = kept
    log_z_grad, target_grad = (grad[..., None] for grad in grads)
    probs = jnp.exp(logits - log_z[..., None])
    one_hot_grad = jnp.where(_is_target(logits, targets), target_grad, 0.0)
    return probs * log_z_grad + one_hot_grad, None


# Differentiated by JAX, it would keep the exponentials beside the logits, and write the gradient
# in two parts to be added.
_log_z_and_target_logit.defvjp(_log_z_and_target_logit_forward, _log_z_and_target_logit_backward)


def predicted_right(
    logits: Float[Array, "batch length vocab"], targets: Int[Array, "batch length"]
) -> Bool[Array, "batch length"]:
    """Whether the target is the first of the largest logits (`argmax(logits) == targets`).

    Comparisons are vector instructions where XLA's argmax is a scalar loop (CPUs), and local where
    the vocabulary is split over devices.
    """
    index = jnp.arange(logits.shape[-1])
    at_target = _log_z_and_target_logit(logits, targets)[1][..., None]
    first = index < targets[..., None]
    beats = (logits > at_target) | (first & (logits == at_target))
    return ~jnp.any(beats, axis=-1)


def token_weights(batch: Batch) -> Float[Array, "batch length"]:
    """`decoder_loss_weights`, by default 1 on targets > 0."""
    weights = batch.get("decoder_loss_weights")
    weights = batch["decoder_target_tokens"] > 0 if weights is None else weights
    return weights.astype(jnp.float32)


def weights_and_divisor(
    factor: float | str | None, batch: Batch, weights: Float[Array, "batch length"]
) -> tuple[Float[Array, "batch length"], float | Float[Array, ""]]:
    """Token weights and the number the summed loss is divided by, for a normalising factor."""
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


def sum_by_task(
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


@dataclass(frozen=True)
class Loss:
    """How logits and targets become a loss.

    Attributes:
      label_smoothing, z_loss: see `cross_entropy_with_logits`.
      normalizing_factor: None: the loss is a SUM over target tokens (T5X's default); a number to
        divide by; "NUM_REAL_TARGET_TOKENS": the sum of weights; "NUM_TOTAL_TARGET_TOKENS": padding
        too; "AVERAGE_PER_SEQUENCE": mean over (packed) sequences of their token means.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    normalizing_factor: float | str | None = None

    def __post_init__(self) -> None:
        factor = self.normalizing_factor
        if isinstance(factor, str):
            if factor.upper() not in SPECIAL_NORMALIZING_FACTORS:
                raise ValueError(
                    "loss_normalizing_factor must be None, a number or one of"
                    f" {SPECIAL_NORMALIZING_FACTORS}, found {factor!r}"
                    f"{did_you_mean(factor, SPECIAL_NORMALIZING_FACTORS)}"
                )
            object.__setattr__(self, "normalizing_factor", factor.upper())
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), found {self.label_smoothing}.")

    def divisor(self, batch: Batch) -> float | Float[Array, ""]:
        """What the summed loss of `batch` is divided by.

        Microbatches are divided by that of the batch they are parts of, so that accumulating
        gradients changes nothing. (T5X normalises each part by itself.)
        """
        return weights_and_divisor(self.normalizing_factor, batch, token_weights(batch))[1]

    def of_states(
        self,
        states: Float[Array, "batch length embed"],
        head: Head,
        batch: Batch,
        num_tasks: int | None = None,
        divisor: float | Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The training loss and metrics to be summed over batches, logits never kept as a whole.

        Args:
          states: normalised states of every target position.
          head: the output head.
          batch: decoder_target_tokens; decoder_loss_weights default to 1 on targets > 0.
          num_tasks: if given, batch["decoder_task_ids"] (-1 on padding) splits the loss by task.
          divisor: that of the whole batch, if `batch` is a part of it.

        Returns:
          The loss (normalised), and float32 sums: "loss" (the same number), "z_loss" (its z-loss
          part), "cross_entropy" (sum over tokens of weight * loss without z-loss, not normalised),
          "weight_sum", "correct" (weights of tokens predicted right), and with num_tasks
          "per_task_loss" and "per_task_weight_sum" [num_tasks], where per_task_loss is split from
          "cross_entropy": their quotient is a task's mean loss per token.
        """
        targets, weights = batch["decoder_target_tokens"], token_weights(batch)
        loss_weights, own = weights_and_divisor(self.normalizing_factor, batch, weights)
        scaled = loss_weights / (own if divisor is None else divisor)
        loss, tokens = weighted_loss(
            states,
            head,
            targets,
            scaled,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )
        return loss, _sums(loss, scaled, weights, tokens, batch, num_tasks)

    def of_logits(
        self,
        logits: Float[Array, "batch length vocab"],
        batch: Batch,
        num_tasks: int | None = None,
        divisor: float | Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The same from float32 logits of every target position."""
        targets, weights = batch["decoder_target_tokens"], token_weights(batch)
        token_loss, token_z_loss = cross_entropy_with_logits(
            logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        loss_weights, own = weights_and_divisor(self.normalizing_factor, batch, weights)
        scaled = loss_weights / (own if divisor is None else divisor)
        loss = jnp.sum(token_loss * scaled)
        right = predicted_right(jax.lax.stop_gradient(logits), targets).astype(jnp.float32)
        tokens = TokenStatistics(*jax.lax.stop_gradient((token_loss, token_z_loss)), right)
        return loss, _sums(loss, scaled, weights, tokens, batch, num_tasks)


def _sums(
    loss: Float[Array, ""],
    scaled: Float[Array, "batch length"],
    weights: Float[Array, "batch length"],
    tokens: TokenStatistics,
    batch: Batch,
    num_tasks: int | None,
) -> dict[str, Array]:
    """The metrics of `Loss.of_states`; `scaled` are weights with the divisor in them."""
    cross_entropy = (tokens.loss - tokens.z_loss) * weights
    metrics = {
        "loss": loss,
        "z_loss": jnp.sum(tokens.z_loss * scaled),
        "cross_entropy": jnp.sum(cross_entropy),
        "weight_sum": jnp.sum(weights),
        "correct": jnp.sum(tokens.right * weights),
    }
    if num_tasks is not None:
        task_ids = batch["decoder_task_ids"]
        metrics["per_task_loss"] = sum_by_task(cross_entropy, task_ids, num_tasks)
        metrics["per_task_weight_sum"] = sum_by_task(weights, task_ids, num_tasks)
    return metrics


def sequence_scores(
    logits: Float[Array, "batch length vocab"], batch: Batch
) -> Float[Array, " batch"]:
    """Log-likelihood of each row's targets: weighted sum over tokens, no z-loss."""
    token_loss, _ = cross_entropy_with_logits(logits, batch["decoder_target_tokens"])
    return -jnp.sum(token_loss * token_weights(batch), axis=-1)
