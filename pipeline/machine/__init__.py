"""The machine underneath: files that appear whole and are ours, the lock, memory, progress."""
