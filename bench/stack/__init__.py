"""What a request costs through the containers: TorchServe's and our own engine's, side by side in one run."""
