# ruff: noqa: I001 - written as other people write handlers
"""Sessions as TorchServe's published example has them: a start header opens, 0 ends, -1 cancels."""

import time

from lru import LRU

from ts.torch_handler.base_handler import BaseHandler

CHUNKS = 10  # after the first one


class SessionHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.cache = None

    def initialize(self, ctx):
        ctx.cache = {}  # sessions under their ids, requests under theirs
        keys = ctx.model_yaml_config["handler"]
        self.cache = LRU(int(keys["cache"]["capacity"]))
        self.pause_s = float(keys.get("pause_s", 1))
        self.initialized = True

    def preprocess(self, data):
        return [self.one(idx, row) for idx, row in enumerate(data)]

    def one(self, idx, row):
        ctx = self.context
        seq_id, req_id = ctx.get_sequence_id(idx), ctx.get_request_id(idx)
        ctx.set_response_header(idx, ctx.header_key_sequence_id, seq_id)
        total = 0
        if ctx.get_request_header(idx, ctx.header_key_sequence_start):
            ctx.cache[seq_id] = {"start": True, "cancel": False, "end": False, "requests": 0}
        else:
            total = int(self.cache[seq_id]) if self.cache.has_key(seq_id) else None
        if req_id in ctx.cache:
            time.sleep(self.pause_s)
            return total
        ctx.cache[req_id] = {"criterion": Criterion(self, seq_id, req_id), "stream": False}
        session = ctx.cache[seq_id]  # KeyError: nobody opened it
        session["requests"] += 1
        value = row.get("data") or row.get("body")
        if isinstance(value, (bytes, bytearray)):
            value = value.decode("utf-8")
        if isinstance(value, dict):
            value = value["input"]
        value = int(value)
        if value == -1:
            session["cancel"] = True
            return value
        self.cache[seq_id] = total + value
        if value == 0:
            session["end"] = True
            ctx.set_response_header(idx, ctx.header_key_sequence_end, seq_id)
        ctx.cache[req_id]["stream"] = value % 2 == 1
        return self.cache[seq_id]

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        ctx = self.context
        ctx.stopping_criteria = [ctx.cache[one]["criterion"] for one in ctx.request_ids.values()]
        return data


class Criterion:
    """Says after each answer of a request whether it was the last one."""

    def __init__(self, outer, seq_id, req_id):
        self.outer = outer
        self.seq_id = seq_id
        self.req_id = req_id
        self.left = CHUNKS

    def __call__(self, _result):
        cache = self.outer.context.cache
        session, streams = cache[self.seq_id], cache[self.req_id]["stream"]
        if streams and not (session["end"] or session["cancel"] or session["start"]) and self.left:
            self.left -= 1
            return False
        plain = session["start"] or not streams
        session["start"] = False
        session["requests"] -= 1
        if session["requests"] == 0:
            session["cancel"] = False
            if session["end"]:
                del cache[self.seq_id]
        del cache[self.req_id]
        return None if plain else True
