"""Click probabilities over REST, from TensorFlow Serving or from `keras-dlrm serve`.

    python savedmodel/client_rest.py rows.json
    python savedmodel/client_rest.py rows.json --address localhost:8501 --model clicks --label canary --signature raw

rows.json has a list of rows, each an object with the inputs of the signature: [{"dense": [0.3], "sparse": [7, 1, -1]}].
It needs the package requests.
"""

import argparse
import json
import sys

import requests


def predict(session, address, model, rows, label=None, signature="serving_default", timeout=2.0):
    """The signature's answer for each row. A label is stable or canary; without one the newest version answers."""
    version = f"/labels/{label}" if label else ""
    body = {"signature_name": signature, "instances": rows}
    answer = session.post(f"http://{address}/v1/models/{model}{version}:predict", json=body, timeout=timeout)
    if answer.status_code != 200:  # the body says in a sentence what is wrong with the request
        raise RuntimeError(f"{answer.status_code}: {answer.json()['error']}")
    return answer.json()["predictions"]


def main():
    """Print one answer a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="file of rows, - for standard input")
    parser.add_argument("--address", default="localhost:8501")
    parser.add_argument("--model", default="clicks")
    parser.add_argument("--label", help="stable or canary; the newest version by default")
    parser.add_argument("--signature", default="serving_default")
    args = parser.parse_args()
    with sys.stdin if args.rows == "-" else open(args.rows, encoding="utf-8") as file:
        rows = json.load(file)
    # One session keeps its connection: a new one per request costs more than the prediction.
    with requests.Session() as session:
        for prediction in predict(session, args.address, args.model, rows, args.label, args.signature):
            print(json.dumps(prediction))


if __name__ == "__main__":
    try:
        main()
    except requests.ConnectionError:
        sys.exit("error: no server answers at that address; start one, such as keras-dlrm serve, or give another --address.")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
