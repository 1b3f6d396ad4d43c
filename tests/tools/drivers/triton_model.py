"""Computes a version's ``model.onnx`` inside Triton's Python backend, where Triton comes without its ONNX backend."""

import json
import os
import sys
from pathlib import Path

sys.path.append(os.environ["SITE_PACKAGES"])  # Triton's own interpreter looks nowhere but at the system's packages

import onnxruntime
import triton_python_backend_utils as utils


class TritonPythonModel:
    """One half of a model; Triton calls its methods by these names."""

    def initialize(self, args):
        self.session = onnxruntime.InferenceSession(
            str(Path(args["model_repository"], args["model_version"], "model.onnx")), providers=["CPUExecutionProvider"]
        )
        config = json.loads(args["model_config"])
        self.inputs, self.outputs = ([each["name"] for each in config[kind]] for kind in ("input", "output"))

    def execute(self, requests):
        answers = []
        for request in requests:
            given = {name: utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            made = self.session.run(self.outputs, given)
            tensors = [utils.Tensor(name, tensor) for name, tensor in zip(self.outputs, made, strict=True)]
            answers.append(utils.InferenceResponse(output_tensors=tensors))
        return answers
