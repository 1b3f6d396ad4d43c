"""Becomes the Triton that nvidia-pytriton brings: ``triton_server.py REPOSITORY WORK PORT``.

It comes without Triton's ONNX backend: ``triton_model.py`` computes the graphs, in its Python backend.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

repository, work, port = sys.argv[1:]
server = Path(pytriton.__file__).parent / "tritonserver"
backends = Path(work, "backends")
shutil.copytree(server / "backends", backends, dirs_exist_ok=True)
stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
shutil.copytree(stub, backends / "python", dirs_exist_ok=True)
environment = {
    **os.environ,
    # Not this Python's own library: with that of 3.11.7 the tensors come back empty, with the system's they do not.
    "LD_LIBRARY_PATH": str(server.parents[1] / "nvidia_pytriton.libs"),
    "SITE_PACKAGES": sysconfig.get_path("purelib"),
}
command = [str(server / "bin" / "tritonserver"), f"--model-repository={repository}", f"--backend-directory={backends}"]
command += [f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=0", "--allow-metrics=0"]
command += ["--model-control-mode=poll", "--repository-poll-secs=1", "--exit-on-error=0"]
os.execve(command[0], command, environment)
