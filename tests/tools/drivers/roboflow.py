"""Calls Roboflow's real SDK; run by its own Python.

Reads a JSON object: the server's ``url``, the ``key`` and how it is sent (``transport``), the path of an ``image``, and
``calls``: the name of a method and its keyword arguments each. Writes the list of the answers, or of the reasons why
there is none.
"""

import asyncio
import json
import sys

import cv2
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError


def main():
    told = json.load(sys.stdin)
    client = InferenceHTTPClient(api_url=told["url"], api_key=told["key"])
    if told["transport"]:
        client.configure(InferenceConfiguration(api_key_transport=told["transport"]))
    answers = []
    for name, options in told["calls"]:
        image = cv2.imread(told["image"]) if options.pop("as_array", False) else told["image"]
        try:
            answer = getattr(client, name)(image, **options)
            answers.append(asyncio.run(answer) if name.endswith("_async") else answer)
        except HTTPCallErrorError as error:
            answers.append({"status": error.status_code, "reason": error.api_message})
    sys.stdout.write(json.dumps(answers))


main()
