"""Run a small model on this machine, for examples and experiments.

The `local` extra installs the server: llama.cpp, as a wheel. The model is the GGUF file that you name. Nothing is downloaded at
run time. The server listens on loopback only, with a new random API key, and ends with this process.
"""

from convokit.local.local_model import LocalModel, serve

__all__ = ["LocalModel", "serve"]
