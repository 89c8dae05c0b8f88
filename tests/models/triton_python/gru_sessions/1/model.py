"""A GRU whose hidden tensors are kept in session objects, batched by the model itself."""

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.GRUCell(4, 8)

    def forward(self, x, h):
        return self.cell(x, h)


class Session:
    def __init__(self, key):
        self.key = key
        self.hidden = torch.zeros(1, 8)


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        self.net = Net().eval()
        self.sessions = {}
        self.words = ["a"] * 1000

    def execute(self, requests):
        inputs, sessions = [], []
        for request in requests:
            tensors = {tensor.name(): tensor for tensor in request.inputs()}
            key = tensors["CORRID"].as_numpy()[0][0]
            if tensors["START"].as_numpy()[0][0]:
                self.sessions[key] = Session(key)
            inputs.append(from_dlpack(tensors["INPUT"].to_dlpack()))
            sessions.append(self.sessions[key])
        with torch.no_grad():
            hidden = self.net(torch.cat(inputs), torch.cat([one.hidden for one in sessions]))
        responses = []
        for at, session in enumerate(sessions):
            session.hidden = hidden[at : at + 1].clone()
            output = pb_utils.Tensor.from_dlpack("OUTPUT", to_dlpack(session.hidden))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
