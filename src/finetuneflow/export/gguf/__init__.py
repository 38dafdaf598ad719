"""Writing GGUF: what the file says, its bytes, and the weights that go in."""
