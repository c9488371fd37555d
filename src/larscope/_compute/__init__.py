"""How work is done: by which processes, with which compiled code, in which memory."""
