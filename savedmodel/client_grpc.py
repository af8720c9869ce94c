"""Click probabilities over gRPC, from TensorFlow Serving or from `keras-dlrm serve`.

    python savedmodel/client_grpc.py rows.json
    python savedmodel/client_grpc.py rows.json --address localhost:8500 --model clicks --label canary --signature raw

rows.json has a list of rows, each an object with the inputs of the signature: [{"dense": [0.3], "sparse": [7, 1, -1]}].
It needs tensorflow and tensorflow-serving-api.
"""

import argparse
import json
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc


def specify(spec, model, label=None, signature=""):
    """Fill a ModelSpec. A label is stable or canary; without one the newest version answers."""
    spec.name, spec.signature_name = model, signature
    if label:
        spec.version_label = label


def input_dtypes(stub, model, label=None, signature="serving_default", timeout=2.0):
    """The dtype of each input. They are exact on the wire: ids as int32 or float where int64 is declared are refused."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    specify(request.model_spec, model, label)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(request, timeout=timeout).metadata["signature_def"].Unpack(signatures)
    return {name: tf.as_dtype(info.dtype) for name, info in signatures.signature_def[signature].inputs.items()}


def predict(stub, model, inputs, label=None, signature="serving_default", timeout=2.0):
    """The signature's outputs by name, for inputs by name: arrays of the dtypes that the signature has."""
    request = predict_pb2.PredictRequest()
    specify(request.model_spec, model, label, signature)
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    # Always with a deadline: without one a lost server is waited for without end.
    response = stub.Predict(request, timeout=timeout)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def main():
    """Print one answer a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="file of rows, - for standard input")
    parser.add_argument("--address", default="localhost:8500")
    parser.add_argument("--model", default="clicks")
    parser.add_argument("--label", help="stable or canary; the newest version by default")
    parser.add_argument("--signature", default="serving_default")
    args = parser.parse_args()
    with sys.stdin if args.rows == "-" else open(args.rows, encoding="utf-8") as file:
        rows = json.load(file)
    # One channel for the life of the program; round_robin spreads requests over all addresses behind a name.
    with grpc.insecure_channel(args.address, [("grpc.lb_policy_name", "round_robin")]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        dtypes = input_dtypes(stub, args.model, args.label, args.signature)
        if missing := [(i, name) for i, row in enumerate(rows) for name in dtypes if name not in row]:
            raise ValueError(f"row {missing[0][0]} has no {missing[0][1]!r}; the signature takes {list(dtypes)}.")
        inputs = {name: tf.constant([row[name] for row in rows], dtype).numpy() for name, dtype in dtypes.items()}
        outputs = predict(stub, args.model, inputs, args.label, args.signature)
    for values in zip(*(array.tolist() for array in outputs.values()), strict=True):
        print(json.dumps(values[0] if len(values) == 1 else dict(zip(outputs, values, strict=True))))


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"error: {error.code().name}: {error.details()}")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
