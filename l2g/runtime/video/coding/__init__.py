"""Who decodes and encodes: the processor, or hardware where a machine has it."""
