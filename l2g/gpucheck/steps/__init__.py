"""What is measured, a module a kind; each is run by a process of its own."""
