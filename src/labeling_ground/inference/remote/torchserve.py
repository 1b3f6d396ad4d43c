"""The name under which older TorchServe archives import their handler. New ones import ``engine_server.torchserve``."""

from labeling_ground.engine_server.torchserve import handle

__all__ = ["handle"]
