"""Which clicks find their image's embedding at the decoder that they are given to, by the way in which it is chosen."""
