"""The simulator: replays recorded or made-up traces through the policies of the stores. No server imports it."""
