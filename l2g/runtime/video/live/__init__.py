"""Sources that go on for ever, and what is told while they do."""
