"""Where entries live: the port, one file a tier, and the policies that choose what goes."""
