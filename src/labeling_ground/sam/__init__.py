"""The conventions of the Segment Anything family, in pure numpy."""
