"""Commands that make an artifact or look into one."""
