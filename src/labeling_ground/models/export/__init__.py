"""From official PyTorch checkpoints to ONNX files. Needs the extra ``export``: torch and others."""
