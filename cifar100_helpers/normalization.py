"""Batch normalization by one fused kernel, where the backend has one."""

import keras

from .runtime import batch_parts, fused_batch_norm


@keras.saving.register_keras_serializable("cifar100_helpers")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, computed over the last axis by the backend's fused kernel where it has one.

    Keras composes the operation from about ten passes over the activations, in float32 even under
    mixed precision; on a CPU these take as long as the convolutions of a narrow network
    (`benchmarks/batch_normalization.py`). Same variables, same results up to rounding.

    The moving averages follow within tens of steps (`momentum` 0.9): with Keras's 0.99, the first
    hundreds of steps look untrained in inference.
    """

    def __init__(self, momentum=0.9, **options):
        if keras.backend.backend() == "tensorflow" and batch_parts() > 1:
            options.setdefault("synchronized", True)  # statistics of the whole batch, not of a part
        super().__init__(momentum=momentum, **options)

    def call(self, inputs, training=None):
        training = bool(training) and self.trainable
        fused = fused_batch_norm(
            inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            training=training,
        )
        if fused is None:
            return super().call(inputs, training=training)
        outputs, mean, variance = fused
        if training:
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        return outputs

    def _move(self, average, batch_statistic):
        average.assign(average * self.momentum + batch_statistic * (1 - self.momentum))
