"""bargein against its peers: the same phone calls, the same scripted models, the same machine, one run."""
