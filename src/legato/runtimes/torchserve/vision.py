"""Handlers of images: classifier, segmenter, object detector. They need torchvision.

Only an explanation needs captum.
"""

from __future__ import annotations

import base64
import io
from functools import cached_property
from typing import TYPE_CHECKING, Any

from legato.runtimes.torchserve.base_handler import BaseHandler
from legato.runtimes.torchserve.helpers import map_class_to_label, timed
from legato.runtimes.torchserve.needs import need

if TYPE_CHECKING:
    from legato.runtimes.torchserve.context import Context

__all__ = ["ImageClassifier", "ImageSegmenter", "ObjectDetector", "VisionHandler"]

_WHO = "a handler of images (ts.torch_handler)"
torch: Any = need("torch", _WHO)
transforms: Any = need("torchvision.transforms", _WHO)
image: Any = need("PIL.Image", _WHO)

_STEPS_OF_AN_EXPLANATION = 15


def _imagenet() -> Any:
    """Make the usual input of networks that were trained on ImageNet."""
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


class VisionHandler(BaseHandler):
    """Decodes images; those that derive from it say how they are processed.

    Attributes:
        image_processing: Makes a tensor of an image.
    """

    image_processing: Any = None

    def initialize(self, context: Context) -> None:
        """Load the model, and let images be as large as configured."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: Any) -> Any:
        """Make one tensor of a batch: images as bytes or base64, or nested lists of numbers."""
        images = [self._tensor(row.get("data") or row.get("body")) for row in data]
        return torch.stack(images).to(self.device)

    def _tensor(self, value: Any) -> Any:
        if isinstance(value, str):
            value = base64.b64decode(value)
        if isinstance(value, bytes | bytearray):
            return self.image_processing(image.open(io.BytesIO(value)))
        return torch.FloatTensor(value)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> Any:
        """Say which pixels an answer came from."""
        del raw_data
        steps = _STEPS_OF_AN_EXPLANATION
        return self.ig.attribute(tensor_data, target=target, n_steps=steps).tolist()

    @cached_property
    def ig(self) -> Any:
        """What explains; made when it is first asked for."""
        attr = need("captum.attr", "an explanation of an image")
        return attr.IntegratedGradients(self.model)


class ImageClassifier(VisionHandler):
    """Names what an image shows: its likeliest classes, with their probabilities.

    Attributes:
        topk: How many of them.
    """

    topk = 5
    image_processing = _imagenet()

    def set_max_result_classes(self, topk: int) -> None:
        """Say how many classes are named."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return how many classes are named."""
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Name the likeliest classes of each row."""
        chances = torch.nn.functional.softmax(data, dim=1)
        best, classes = torch.topk(chances, self.topk, dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())


class ImageSegmenter(VisionHandler):
    """Gives each pixel its likeliest class, and how likely it is."""

    image_processing = _imagenet()

    def postprocess(self, data: Any) -> Any:
        """Give rows x height x width x (class, probability)."""
        best = torch.max(torch.nn.functional.softmax(data["out"], dim=1), dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()


class ObjectDetector(VisionHandler):
    """Finds things in an image: their class, their box, and a score.

    Attributes:
        threshold: Least score.
    """

    image_processing = transforms.Compose([transforms.ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Any) -> Any:
        """Give each row the things that are likely enough."""
        return [self._found(row) for row in data]

    def _found(self, row: Any) -> list[dict[str, Any]]:
        likely = row["scores"] >= self.threshold
        boxes, labels, scores = (row[key][likely].tolist() for key in ("boxes", "labels", "scores"))
        return [
            {**map_class_to_label([[box]], self.mapping, [[label]])[0], "score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
