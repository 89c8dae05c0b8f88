"""One sequence over a gRPC stream, with grpcio and Legato's own messages."""

import math
import queue
import sys

import grpc
import numpy as np

from legato.protocols.kserve.gen import kserve_pb2 as pb

SERIES = [(10, 0, 1), (20, 0, 1), (20, math.nan, 1), (20, 8, 1), (20, 8, 1)]

requests: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
channel = grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
replies = channel.stream_stream(
    "/inference.GRPCInferenceService/ModelStreamInfer",
    request_serializer=pb.ModelInferRequest.SerializeToString,
    response_deserializer=pb.ModelStreamInferResponse.FromString,
)(iter(requests.get, None))

for index, values in enumerate(SERIES):
    request = pb.ModelInferRequest(model_name="moving-average")
    request.parameters["sequence_id"].int64_param = 42
    request.parameters["sequence_start"].bool_param = index == 0
    request.parameters["sequence_end"].bool_param = index == len(SERIES) - 1
    request.inputs.add(name="value", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.array(values, np.float32).tobytes())
    requests.put(request)
    reply = next(replies)
    if reply.error_message:
        print(values, "refused:", reply.error_message)
    else:
        print(values, np.frombuffer(reply.infer_response.raw_output_contents[0], np.float32))
requests.put(None)
channel.close()
