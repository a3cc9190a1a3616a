"""The machine underneath: files that appear whole, memory, progress."""
