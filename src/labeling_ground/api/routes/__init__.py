"""One file a resource. A route parses, calls one service method, and responses."""
