"""Other engines on the same machine, in the same run: llama.cpp, and Petals where it installs."""
