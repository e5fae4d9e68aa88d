"""An exported adapter as an MLflow model, made of this code and safetensors files; nothing is pickled or unpickled.

MLflow copies this file next to the adapter ("models from code") and runs it when the model is loaded; Paretune must be installed
there.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch

from trainables import backbones
from trainables.export.adapter import load_adapter, read_card, task_of


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow ships no types
    """A classifier of images: a backbone with an adapter."""

    def load_context(self, context: Any) -> None:
        """Build the card's backbone and load the adapter into it."""
        folder = context.artifacts["adapter"]
        card = read_card(folder)
        self._model = backbones.create(str(card.backbone["name"]), card.backbone["weights"], card.backbone["img_size"])
        load_adapter(self._model, folder)
        self._model.eval()
        self._task = task_of(card)
        shape = (1, -1, 1, 1)
        self._mean, self._std = (torch.tensor(card.preprocessing[key]).view(shape) for key in ("mean", "std"))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as a schema, and warns
        """Compute class probabilities.

        Args:
            context: Context object of MLflow.
            model_input: Images (n, channels, height, width) uint8, at the size in the card's preprocessing.
            params: Ignored.

        Returns:
            (n, classes) float32 in the order of the card's class names; each row sums to one, unless an image has any number of
            labels.
        """
        images = torch.from_numpy(np.ascontiguousarray(model_input)).float() / 255
        with torch.inference_mode():
            return self._task.probabilities(self._model((images - self._mean) / self._std)).numpy()


mlflow.models.set_model(Served())
