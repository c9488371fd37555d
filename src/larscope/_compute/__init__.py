"""Running the work: processes, compiled code, memory."""
