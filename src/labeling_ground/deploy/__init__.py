"""Entry points for engines that place and scale the parts of a deployment."""
