"""The pages: their files under ``static/``, what serves them, and ONNX Runtime Web for the page that decodes."""
