"""Measures what it is told to: counters, gauges, histograms, declared ones."""

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.base_handler import BaseHandler


class MeasuringHandler(BaseHandler):
    def initialize(self, context):
        self.latency = context.metrics.add_metric_to_cache(
            "StageSeconds", "s", ["stage"], MetricTypes.HISTOGRAM
        )
        self.initialized = True

    def preprocess(self, data):
        return [int(bytes(row.get("data") or row.get("body"))) for row in data]

    def inference(self, data, *args, **kwargs):
        metrics = self.context.metrics
        for index, value in enumerate(data):
            metrics.add_counter("RowsSeen", 1, index)
            metrics.add_size("LastValue", value, index, "B", [Dimension("kind", 'a"b')])
            self.latency.add_or_update(value / 100, ["infer"])
            if value > 90:
                metrics.add_counter("TooLarge", 1)
                raise ValueError(value)
            if value == 42:
                for number in range(3000):
                    metrics.add_counter("Flood", 1, index, [Dimension("n", str(number))])
        return data

    def postprocess(self, data):
        return data
