"""How well the weight-free engine outlines things, judged by a robot annotator on sample photographs."""
