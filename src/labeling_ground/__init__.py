"""Labeling Ground: a prediction-cache server for interactive image labeling."""

import os
import sys

__version__ = "0.1.0"

# Nothing is reported to the makers of the engines: ONNX Runtime sends the digest of the operator's weights, OpenVINO
# every import. Both decide when they are imported, an operator's own engine may import them too, and each way in
# (commands, ASGI factory, TorchServe's workers) imports this package before them: so it is switched off here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO goes on without the package
