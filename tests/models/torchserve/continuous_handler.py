"""Sessions over continuous batching, as in TorchServe's example: even = one sum, odd = a stream."""

from ts.torch_handler.base_handler import BaseHandler

CHUNKS = 5


class ContinuousHandler(BaseHandler):
    def initialize(self, ctx):
        super().initialize(ctx)
        self.sums = {}
        ctx.cache = {}
        self.context = ctx

    def preprocess(self, data):
        self.context.stopping_criteria = []
        out = []
        for idx, row in enumerate(data):
            req_id = self.context.get_request_id(idx)
            seq_id = self.context.get_sequence_id(idx)
            self.context.set_response_header(idx, self.context.header_key_sequence_id, seq_id)
            session = self.context.cache.setdefault(seq_id, {"cancel": False, "left": 0})
            if row:
                value = int((row.get("data") or row.get("body")).decode())
                if value == -1:
                    session["cancel"] = True
                    out.append(-1)
                    self.context.stopping_criteria.append(lambda _result: None)
                    continue
                if value == 0:
                    key = self.context.header_key_sequence_end
                    self.context.set_response_header(idx, key, seq_id)
                self.sums[seq_id] = self.sums.get(seq_id, 0) + value
                session["cancel"] = False
                session["left"] = CHUNKS if value % 2 else 0
                self.context.cache[req_id] = {"stopping_criteria": self.criteria(seq_id)}
            stream = session["left"] > 0
            self.context.stopping_criteria.append(
                self.context.cache[req_id]["stopping_criteria"] if stream else None
            )
            out.append(self.sums[seq_id])
        return out

    def criteria(self, seq_id):
        def done(_result):
            session = self.context.cache[seq_id]
            session["left"] -= 1
            if session["cancel"]:
                session["left"] = 0
            return session["left"] <= 0

        return done

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return data
