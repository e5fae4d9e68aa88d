"""Semantic segmentation: the class of each pixel. The head is DINOv2's linear protocol (Oquab et al., TMLR 2024, arXiv 2304.07193).

    logits = upsample(W norm(x) + b)    x the patch tokens (d, rows, columns) behind the backbone's last norm, norm a batch norm
                                        over images and patches, W a 1 x 1 convolution (classes, d), bilinear to the input's size

It trains 2 d + d C + C parameters. The running mean and variance of the norm belong to the head, too: checkpoints and exports hold
them. Class and register tokens take no part, and neither does the backbone's pooling.

Labels are masks (n, height, width) uint8 of the input's size: the number of each pixel's class, or `IGNORED`, which takes part in
neither loss nor metrics.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trainables import backbones
from trainables.adapters import supported_blocks
from trainables.adapters.families import layouts
from trainables.tasks.quality import Answers, measure

IGNORED: Final = 255  # value of a pixel without a class, in labels


class Head(nn.Module):
    """The head, in the place of a timm model's classifier.

    Args:
        input_shape: Shape of what an image has in front of the head: (tokens, d), or (rows, columns, d) for a Swin.
        n_prefix: Number of tokens in front of the patches.
        grid: Rows and columns of patches.
        size: Height and width of the logits.
        classifier: Linear from d to classes, whose values the convolution takes.
    """

    def __init__(
        self, input_shape: tuple[int, ...], n_prefix: int, grid: tuple[int, int], size: tuple[int, int], classifier: nn.Linear
    ) -> None:
        super().__init__()
        weight, bias = classifier.weight, classifier.bias
        self.input_shape, self.n_prefix, self.grid, self.size = input_shape, n_prefix, grid, size
        self.norm = nn.BatchNorm2d(weight.shape[1], device=weight.device, dtype=weight.dtype)
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
        self.conv.weight, self.conv.bias = nn.Parameter(weight.detach()[:, :, None, None]), nn.Parameter(bias.detach())
        self.before: tuple[Any, ...] = ()  # the parts of the model that pool, for `remove_head`

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the tokens of (n, *input_shape) to logits (n, classes, height, width)."""
        patches = tokens.reshape(len(tokens), -1, tokens.shape[-1])[:, self.n_prefix :]
        on_grid = patches.transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        return F.interpolate(self.conv(self.norm(on_grid)), self.size, mode="bilinear")


class Segmentation:
    """One class for each pixel: cross-entropy, mean IoU."""

    name = "segmentation"
    metric = "miou"
    eval_batch = 16
    formats = ("adapter",)

    def set_head(self, model: nn.Module, n_classes: int, generator: torch.Generator, init: str = "trunc_normal") -> None:
        """Add a `Head`, and take out the pooling in front of it.

        Raises:
            ValueError: If the backbone's patches have no fixed grid.
        """
        layout = list(layouts(model, supported_blocks(model)).values())[-1]
        width, is_swin = cast(int, model.num_features), isinstance(model, SwinTransformer)
        shape = (*layout.grid, width) if is_swin else (len(layout), width)
        backbones.set_head(model, n_classes, generator, init)
        path = backbones.classifier(model)
        linear = cast(nn.Linear, model.get_submodule(path))
        head = Head(shape, layout.n_prefix, layout.grid, backbones.preprocessing(model).size, linear)
        own = cast(Any, model)
        if is_swin:
            head.before = (own.head.global_pool,)
            own.head.global_pool = nn.Identity()
        else:
            head.before = (own.global_pool, getattr(own, "attn_pool", None))
            own.global_pool = ""
            if head.before[1] is not None:
                own.attn_pool = None
        model.set_submodule(path, head.train(model.training))

    def remove_head(self, model: nn.Module) -> None:
        """Remove the head, and put the pooling back."""
        own, head = cast(Any, model), cast(Head, model.get_submodule(backbones.classifier(model)))
        if isinstance(model, SwinTransformer):
            (own.head.global_pool,) = head.before
        else:
            own.global_pool = head.before[0]
            if head.before[1] is not None:
                own.attn_pool = head.before[1]
        backbones.remove_head(model)

    def no_labels(self, n_images: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return masks of the first class."""
        return torch.zeros(n_images, *size, dtype=torch.uint8, device=device)

    def class_weights(self, labels: Tensor, n_classes: int) -> Tensor:
        """Refuse: an image has no one class."""
        raise ValueError("balanced needs one label for each image, and these have masks; use none")

    def loss(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over an image's labelled pixels of the cross-entropy, summed over images, over n_images."""
        return self._losses(logits, labels, label_smoothing).sum() / n_images

    loss_in_split = loss

    def _losses(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each image (n,), 0 without a labelled pixel."""
        wanted = labels.long()
        each = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing)
        return each.sum((1, 2)) / (labels != IGNORED).sum((1, 2)).clamp(min=1)

    def keep(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Keep, of each image, the pixels of each class that are right, that are answered and that have it, and the loss.

        They are the diagonal and the sums of the rows and columns of its confusion matrix: (n, 3 classes + 1) float64.
        """
        n, n_classes = logits.shape[:2]
        answered, wanted, first = logits.argmax(1).flatten(1), labels.long().flatten(1), torch.arange(n, device=labels.device)
        labelled = wanted != IGNORED
        slots = first[:, None] * n_classes

        def count(classes: Tensor, where: Tensor) -> Tensor:
            return torch.bincount((slots + classes)[where], minlength=n * n_classes).view(n, n_classes)

        right, every, true = (
            count(wanted, labelled & (answered == wanted)),
            count(answered, labelled),
            count(wanted, labelled),
        )
        losses = self._losses(logits, labels)
        return torch.cat([right, every, true, losses[:, None]], 1).double()

    def scores(self, kept: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the mean IoU over the whole split, and the mean loss of an image."""
        return {"miou": measure("miou", *self.answers(kept, labels)), "loss": kept[:, -1].mean().item()}

    def correct(self, kept: Tensor, labels: Tensor) -> None:
        """Return None: some pixels of an image may be right."""
        return

    def answers(self, kept: Tensor, labels: Tensor) -> Answers:
        """Return the right and the answered pixels of each class (n, 2, classes), and those that have it (n, 1, classes)."""
        right, answered, true = kept[:, :-1].cpu().view(len(kept), 3, -1).unbind(1)
        return torch.stack([right, answered], 1).numpy(), true[:, None].long().numpy()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities that sum to one in each pixel."""
        return logits.softmax(1)

    def images_of_classes(self, labels: Tensor, n_classes: int) -> list[int]:
        """Count the images with at least one pixel of each class."""
        counts = torch.zeros(IGNORED + 1, dtype=torch.long)
        for mask in labels:
            counts += torch.bincount(mask.flatten().long(), minlength=IGNORED + 1).cpu() > 0
        return [int(n) for n in counts[:n_classes]]


SEGMENTATION: Final = Segmentation()
